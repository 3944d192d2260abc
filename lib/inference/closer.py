"""Coarse to fine: windows around small structures, so that a second pass sees them larger.

Query and templates are cut so that the structure fills the same part of each view, as it does in the episodes that
look closely at a structure in training (`lib.learning.augmentation`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from lib.imaging.images import Image
from lib.inference.templates import Template

MARGIN = 0.6  # of the structure's longest side, on every side of it

Window = tuple[slice, ...]


def window_of(mask: np.ndarray) -> Window | None:
    """The part of the image around a bool mask, with equal margins on all sides; None for an empty mask."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    margin = max(1, round(MARGIN * max(part.stop - part.start for part in found[0])))
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(found[0], mask.shape, strict=True)
    )


def share(window: Window, shape: tuple[int, ...]) -> float:
    """How much of an image a window shows: the largest part of any of its sides; a single slice has two."""
    return max((part.stop - part.start) / size for part, size in zip(window, shape, strict=True) if size > 1)


def cropped(image: Image, window: Window) -> Image:
    """The window of an image, where it was in space."""
    affine = image.affine.copy()
    start = np.array([part.start for part in window] + [0] * (3 - len(window)))
    affine[:3, 3] += affine[:3, :3] @ start
    return Image(image.array[window], affine)


def cropped_template(template: Template, structure: str, mask: np.ndarray) -> Template | None:
    """A template's window around one of its structures, with this bool mask of it; None for an empty mask."""
    window = window_of(mask)
    if window is None:
        return None
    label = mask[window].astype(np.uint8)
    return replace(
        template, image=cropped(template.image, window), label=label, names={structure: 1}, prompts={}, checksum=""
    )
