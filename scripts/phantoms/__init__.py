"""Phantoms: anatomy as formulas, posed, scanned, written as DICOM series."""
