"""Runs the released 3D Slicer extension of MONAI Label without 3D Slicer, to record what its panel sends."""
