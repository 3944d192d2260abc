"""Training on a study list's own labels: cross-validation, verdict, versions, the list-specific U-Net."""
