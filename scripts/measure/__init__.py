"""Measurements: evaluation, calibration, simulation, and what they share."""
