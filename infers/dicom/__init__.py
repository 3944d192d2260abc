"""DICOM out and in: a DICOMweb server as the study list, SEG, RTSTRUCT."""
