"""Prompts that an annotator would give in a volume, drawn from a known mask: on a few slices, not on all."""

from __future__ import annotations

import numpy as np

from lib.imaging.prompts import Prompt, PromptType
from lib.learning.simulated_prompts import interior_point, scribble, simulate_prompt

PROMPTED = (0.25, 0.5, 0.75)  # where along the structure's extent strokes are drawn


def simulate_on(mask: np.ndarray, kind: PromptType, rng: np.random.Generator, axis: int) -> Prompt:
    """A prompt on a non-empty bool mask; in 2-D as `lib.learning.simulated_prompts` draws it.

    In a volume, with slices along the array axis `axis`: Click: one in the middle slice of the structure. BBox: the
    tight box. Doodle: strokes on three slices. SegLab: the mask.
    """
    if mask.ndim == 2:
        return simulate_prompt(mask, kind, rng)
    if kind is PromptType.SEGLAB:
        return Prompt(mask=mask)
    if kind is PromptType.BBOX:
        bounds = [(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask)]
        return Prompt(box=tuple(bound for pair in bounds for bound in pair))
    slices = np.moveaxis(mask, axis, 0)
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    if kind is PromptType.CLICK:
        middle = int(filled[len(filled) // 2])
        point = interior_point(slices[middle], rng)
        return Prompt(foreground=((*point[:axis], middle, *point[axis:]),))
    strokes = np.zeros_like(mask)
    for fraction in PROMPTED:
        index = int(filled[round(fraction * (len(filled) - 1))])
        np.moveaxis(strokes, axis, 0)[index] = scribble(slices[index], rng)
    return Prompt(doodle=strokes)
