"""Rooms of `scripts.evaluate`: what is asked (`plan`), who answers, how it is scored, kept, summed up and shown."""
