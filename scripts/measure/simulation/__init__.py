"""A simulated annotator who works through a study list on a real server; `scripts/simulate.py` is the command."""
