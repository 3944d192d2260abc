"""What `scripts.calibrate` and `scripts.evaluate_quality` share: study lists whose truth is known."""
