"""The review board: one page on which a person goes through the masks, worst first, and decides."""
