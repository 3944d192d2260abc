"""UniSeg on whole studies: its tasks, its weights with what they are for, and the way from an image to a mask."""
