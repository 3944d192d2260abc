"""The error of everything that reads or writes images."""

from __future__ import annotations


class ImageError(ValueError):
    """A file or array that is no usable image or label; says what is allowed, what was given and what to do."""
