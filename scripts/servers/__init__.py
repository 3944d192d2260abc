"""Servers as processes: MONAI Label over REST, Orthanc."""
