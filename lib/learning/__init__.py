"""What networks learn from and how: data sets, episodes, augmentation, simulated prompts, one training step."""
