"""Work by hand, counted in clicks: polygons around a structure, slice by slice.

Nobody paints without tools, so drawing by hand is counted as what the usual tool costs: a closed polygon around each
part of the structure on each slice, one click a corner. The annotator is a good one: every corner lies on the true
outline, corners are evenly spaced, and no slice gets more corners than it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from lib.imaging.metrics import dice

CORNERS = (3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)  # of one part; what needs more counts as the last


def outline(truth: np.ndarray, goal: float) -> tuple[np.ndarray, int]:
    """What a polygon tool makes of a 2-D mask, and the clicks it took.

    Args:
        truth: (H, W) bool, not empty.
        goal: Dice, 0 to 1, that the drawn mask reaches with the fewest corners a part; the truth itself where even the
            most do not reach it.
    """
    contours = find_contours(np.pad(truth, 1).astype(float), 0.5)
    for corners in CORNERS:
        filled = np.zeros(truth.shape, bool)
        for contour in contours:
            filled ^= polygon2mask(truth.shape, _evenly(contour - 1, corners))  # a hole takes away
        if dice(filled, truth) >= goal:
            return filled, corners * len(contours)
    return truth, CORNERS[-1] * len(contours)


def draw(mask: np.ndarray, truth: np.ndarray, axis: int, goals: Sequence[float]) -> tuple[np.ndarray, dict[float, int]]:
    """Redraw slices of a mask, the most wrong one first, until it reaches every goal.

    Args:
        mask, truth: bool, of an image's shape; a mask of nothing is drawn from the beginning.
        axis: slices lie across this axis of a volume.
        goals: Dice, 0 to 1, in rising order.

    Returns:
        The mask at the last goal, and {goal: clicks until then}. Wiping out a slice without the structure is one click.
    """
    edited = np.atleast_3d(mask).copy() if mask.ndim == 2 else mask.copy()
    true = np.atleast_3d(truth) if truth.ndim == 2 else truth
    axis = 2 if mask.ndim == 2 else axis
    slices, wanted = np.moveaxis(edited, axis, 0), np.moveaxis(true, axis, 0)
    clicks, needed = 0, {}
    for goal in goals:
        while dice(edited, true) < goal:
            wrong = (slices != wanted).sum(axis=(1, 2))
            index = int(wrong.argmax())
            if wanted[index].any():
                filled, corners = outline(wanted[index], goal)
                better = dice(filled, wanted[index]) > dice(slices[index], wanted[index])
                slices[index], corners = (filled, corners) if better else (wanted[index], CORNERS[-1])
            else:
                slices[index], corners = False, 1
            clicks += corners
        needed[goal] = clicks
    return edited.reshape(mask.shape), needed


def by_hand(truth: Mapping[str, np.ndarray], axis: int, goals: Sequence[float]) -> dict[str, dict[float, int]]:
    """{structure: {goal: clicks}} of drawing every structure from nothing."""
    return {name: draw(np.zeros_like(mask), mask, axis, goals)[1] for name, mask in truth.items()}


def _evenly(contour: np.ndarray, count: int) -> np.ndarray:
    """(count, 2) points of a closed contour, evenly spaced along it."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(contour, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count, endpoint=False)
    return np.stack([np.interp(at, length, contour[:, side]) for side in (0, 1)], axis=1)
