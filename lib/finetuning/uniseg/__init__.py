"""UniSeg learns from labelled volumes: a plan from the list itself, its material, one training step, and the course."""
