"""From probabilities to a mask: how several answers are averaged, and where the line is drawn.

Answers that disagree on where a structure is average to less than one half everywhere, and a mask cut at one half
would be empty although each of them found something. The line is therefore drawn where the Dice that the probabilities
themselves promise is highest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
