"""How good is a mask that nobody has checked: features, reverse Dice, estimator, calibration, template check."""
