"""Pixels of a slice as runs [first, count, first, count, ...], counted with the first axis the fastest, as NIfTI files
hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def runs_of(pixels: np.ndarray) -> list[int]:
    """Runs of a bool slice (H, W)."""
    edges = np.flatnonzero(np.diff(np.pad(pixels.ravel("F").astype(np.int8), 1)))
    return [int(n) for first, end in zip(edges[::2], edges[1::2], strict=True) for n in (first, end - first)]


def pixels_of(runs: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """The bool slice (H, W) of runs. Raises ValueError where they are not pairs, or leave the slice."""
    pixels = np.zeros(shape[0] * shape[1], bool)
    if len(runs) % 2 or any(first + count > pixels.size for first, count in zip(runs[::2], runs[1::2], strict=True)):
        raise ValueError(
            f"runs must be pairs of a first pixel and a count within {pixels.size} pixels, got {len(runs)} numbers"
            + (f" up to {max(runs)}" if runs else "")
        )
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        pixels[first : first + count] = True
    return pixels.reshape(shape, order="F")
