"""What a list's own corrected studies teach about the estimates of the others.

A corrected study shows how good its automatic mask really was. A few of them move the estimates of the whole list (by a
line that is held near "as estimated" until there is reason to leave it), and set how wide the bounds must be, by split
conformal prediction: as wide as would have held 9 of 10 of the cases seen. Where there are less than `ENOUGH`, the
cases that the estimator was fitted on stand in for those that are missing. Corrected cases are judged by the others, as
if they were not known themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.estimator import Estimator

COVERED = 0.9
ENOUGH = 20  # corrected cases, from which on a list's intervals rest on it alone
OFFSET_CASES = 2.0  # corrections it takes to believe half of a list's mean error
SLOPE_CASES = 1.0  # variance of estimates times cases it takes to believe half of a list's slope


@dataclass(frozen=True)
class Calibration:
    """How to read estimates in one list.

    Attributes:
        estimator: whose estimates they are.
        offset: added to them.
        slope, centre: and this times their distance from a centre.
        margin: by how much the bounds are wider than the estimator's own.
        cases: corrected cases that it rests on.
    """

    estimator: Estimator
    offset: float = 0.0
    slope: float = 0.0
    centre: float = 0.5
    margin: float = 0.0
    cases: int = 0

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], estimator: Estimator) -> Calibration:
        """Learn from (estimate, true Dice) of corrected cases; what is not finite is left out."""
        known = np.array([pair for pair in pairs if np.isfinite(pair).all()], float).reshape(-1, 2)
        line = _line(known)
        scores = [
            _outside(estimator, _shifted(_line(np.delete(known, place, axis=0)), raw), raw, truth)
            for place, (raw, truth) in enumerate(known)
        ]
        return cls(estimator, *line, _margin(scores, estimator.scores), len(known))

    def apply(self, raw: float) -> tuple[float, float, float]:
        """(expected Dice, low, high), each 0 to 1, of an estimate."""
        dice = _shifted((self.offset, self.slope, self.centre), raw)
        low, high = self.estimator.bounds(raw)
        moved = dice - raw
        low, high = max(0.0, low + moved - self.margin), min(1.0, high + moved + self.margin)
        return dice, min(low, dice), max(high, dice)


def _line(pairs: np.ndarray) -> tuple[float, float, float]:
    """Offset, slope and centre of the errors against the estimates, shrunk towards no error."""
    if not len(pairs):
        return 0.0, 0.0, 0.5
    raw, errors = pairs[:, 0], pairs[:, 1] - pairs[:, 0]
    centre = float(raw.mean())
    offset = float(errors.sum() / (len(errors) + OFFSET_CASES))
    around = raw - centre
    slope = float((around * (errors - errors.mean())).sum() / ((around**2).sum() + SLOPE_CASES))
    return offset, slope, centre


def _shifted(line: tuple[float, float, float], raw: float) -> float:
    offset, slope, centre = line
    return min(1.0, max(0.0, raw + offset + slope * (raw - centre)))


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
