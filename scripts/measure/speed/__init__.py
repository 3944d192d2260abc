"""What the server costs, in core seconds, and whether that is what was promised: the parts of `scripts.benchmark`."""
