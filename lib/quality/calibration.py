"""What a list's own corrected studies teach about the estimates of the others.

A corrected study shows how good its automatic mask really was. A few of them move the list's estimates that are like
theirs, and set how wide the bounds must be, by split conformal prediction: as wide as would have held 9 of 10 of the
cases seen. Where there are less than `ENOUGH`, the cases that the estimator was fitted on stand in for those that are
missing. Corrected cases are judged by the others, as if they were not known themselves.

Only estimates alike are moved because people correct what looks worst: masks with a low estimate are on average better
than it, and that says nothing of those with a high one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.quality.estimator import Estimator

COVERED = 0.9
ENOUGH = 20  # corrected cases, from which on a list's intervals rest on it alone
ALIKE = 0.08  # difference of two estimates at which one's error says 0.6 as much of the other
PRIOR_CASES = 2.0  # corrections with the same estimate that it takes to believe half of their mean error


@dataclass(frozen=True)
class Calibration:
    """How to read estimates in one list.

    Attributes:
        estimator: whose estimates they are.
        known: (estimate, true Dice) of the corrected cases that it rests on.
        margin: by how much the bounds are wider than the estimator's own.
    """

    estimator: Estimator
    known: tuple[tuple[float, float], ...] = ()
    margin: float = 0.0

    @property
    def cases(self) -> int:
        """Corrected cases that it rests on."""
        return len(self.known)

    @cached_property
    def _cases(self) -> np.ndarray:
        return _array(self.known)  # once: every mask of a long list is asked for

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], estimator: Estimator) -> Calibration:
        """Learn from (estimate, true Dice) of corrected cases; what is not finite is left out."""
        known = tuple(pair for pair in pairs if np.isfinite(pair).all())
        cases = _array(known)
        scores = [
            _outside(estimator, _moved(np.delete(cases, place, axis=0), raw), raw, truth)
            for place, (raw, truth) in enumerate(known)
        ]
        return cls(estimator, known, _margin(scores, estimator.scores))

    def apply(self, raw: float) -> tuple[float, float, float]:
        """(expected Dice, low, high), each 0 to 1, of an estimate."""
        dice = _moved(self._cases, raw)
        low, high = self.estimator.bounds(raw)
        moved = dice - raw
        low, high = max(0.0, low + moved - self.margin), min(1.0, high + moved + self.margin)
        return dice, min(low, dice), max(high, dice)


def _array(known: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array(known, float).reshape(-1, 2)


def _moved(cases: np.ndarray, raw: float) -> float:
    """An estimate, moved by the mean error of (n, 2) cases with estimates like it, shrunk towards no error."""
    estimates, truths = cases.T
    alike = np.exp(-0.5 * ((estimates - raw) / ALIKE) ** 2)
    error = float((alike * (truths - estimates)).sum() / (alike.sum() + PRIOR_CASES))
    return min(1.0, max(0.0, raw + error))


def _outside(estimator: Estimator, dice: float, raw: float, truth: float) -> float:
    """How far the truth lies outside its bounds; negative inside."""
    low, high = estimator.bounds(raw)
    return max(low + dice - raw - truth, truth - high - dice + raw)


def _margin(scores: Sequence[float], prior: Sequence[float]) -> float:
    """The least margin that holds `COVERED` of the cases, prior ones in the place of those missing to `ENOUGH`."""
    missing = max(0, ENOUGH - len(scores))
    if not scores and not prior:
        return 0.0
    values = np.array([*scores, *prior])
    weights = np.array([1.0] * len(scores) + [missing / max(1, len(prior))] * len(prior))
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / (weights.sum() + 1)  # 1: the case to come, which split conformal counts
    place = int(np.searchsorted(reached, COVERED))
    return float(values[order][min(place, len(values) - 1)])
