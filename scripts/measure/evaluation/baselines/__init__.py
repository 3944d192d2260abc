"""What One-Prompt is measured against, on the same pairs and the same clicks."""
