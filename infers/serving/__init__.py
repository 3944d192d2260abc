"""The network in memory, and whose turn it is at it."""
