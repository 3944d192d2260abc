"""Whole-study segmenters: a raw image in, a mask on the same grid out."""
