"""From probabilities to a mask: how several answers are averaged, and where the line is drawn.

Answers that disagree on where a structure is average to less than one half everywhere, and a mask cut at one half
would be empty although each of them found something. The line is therefore drawn where the Dice that the probabilities
themselves promise is highest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lib.imaging.transforms import resize_logits

QUANTILES = 25  # between the highest and the lowest logit inside a box
BOX_FIT = 0.8  # of the box's area: what an answer's own bounding box covers where it counts as reaching the sides
BINS = 160  # steps of the line between `least` and 1


def to_probability(logits: np.ndarray) -> np.ndarray:
    """Logistic function, for logits of any size."""
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


def to_logit(probabilities: np.ndarray | float) -> np.ndarray:
    """Inverse of `to_probability`, finite for 0 and 1."""
    inside = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))


def mean_logits(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of the mean of the probabilities that some arrays of logits stand for."""
    return to_logit(np.mean([to_probability(answer) for answer in answers], axis=0)).astype(np.float32)


def at_both(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Logits of the mean probability at two resolutions, (..., s, s) and (..., S, S), on the finer grid."""
    grown = resize_logits(torch.from_numpy(coarse).reshape(1, -1, *coarse.shape[-2:]), fine.shape[-2:])
    return mean_logits([grown.numpy().reshape(fine.shape), fine])


def dice_optimal_threshold(logits: np.ndarray, least: float) -> float:
    """The logit to cut one structure at for the highest expected Dice, from the probability `least` to one half.

    Voxels below `least` are many and mean little one by one: they do not count.
    """
    probabilities = to_probability(logits[logits > to_logit(least)])
    if least >= 0.5 or not probabilities.size:
        return 0.0
    counts, edges = np.histogram(probabilities, BINS, (least, 1.0))
    sums, _ = np.histogram(probabilities, BINS, (least, 1.0), weights=probabilities)
    inside, expected = counts[::-1].cumsum()[::-1], sums[::-1].cumsum()[::-1]  # of each bin and those above it
    promised = 2 * expected / (inside + sums.sum())
    return float(to_logit(min(0.5, float(edges[promised.argmax()]))))


def box_reaching_threshold(logits: np.ndarray, inside: np.ndarray) -> float:
    """The logit to cut an answer at so that it reaches the sides of the box that asked for it.

    Whoever draws a box around a cell means the cell and not the nucleus that a network is surest of. It is 0 where
    that fits the box well enough, else the highest of `QUANTILES` inside the box that does, and 0 if none does.

    Args:
        logits: (S, S).
        inside: bool (S, S), true in the box.
    """
    box = _bounds(inside)
    within = logits[inside]
    for threshold in (0.0, *np.quantile(within, np.linspace(1, 0, QUANTILES + 2)[1:-1])):
        mask = inside & (logits > threshold)
        if mask.any() and _overlap(_bounds(mask), box) >= BOX_FIT:
            return float(threshold)
    return 0.0


def _bounds(mask: np.ndarray) -> np.ndarray:
    """Half-open (i0, j0, i1, j1) of a non-empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def _overlap(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the outer box that one inside it covers."""
    return float(np.prod(inner[2:] - inner[:2]) / np.prod(outer[2:] - outer[:2]))
