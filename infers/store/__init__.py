"""MONAI Label's datastore on a folder: images, DICOM series, labels and what is recorded about them."""
