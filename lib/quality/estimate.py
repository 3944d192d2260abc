"""How good is a mask that nobody has checked? One number, an interval, and one reason.

`lib.quality.features` gathers what speaks for it, `lib.quality.estimator` weighs that, `lib.quality.calibration` learns
from the list's own corrected studies, and `lib.quality.alarms` says what a person would see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.quality.alarms import alarms, reason
from lib.quality.calibration import Calibration
from lib.quality.estimator import Estimator

SURE = 0.85  # from here on a mask needs no reason to be doubted


@dataclass(frozen=True)
class Quality:
    """What is expected of one structure's mask.

    Attributes:
        dice: expected Dice, 0 to 1.
        low, high: where the true Dice lies in 9 of 10 cases; None where nobody knows.
        reason: the one thing to know about it.
        alarms: what is alarming, the most alarming first.
        estimate: what was expected before the list's own corrections were looked at; None where nothing was found.
    """

    dice: float
    low: float | None = None
    high: float | None = None
    reason: str = ""
    alarms: tuple[str, ...] = ()
    estimate: float | None = None

    def calibrated(self, calibration: Calibration) -> Quality:
        """The same in a list with this calibration."""
        if self.estimate is None:
            return self
        dice, low, high = calibration.apply(self.estimate)
        return replace(self, dice=dice, low=low, high=high)


def judge(evidence: Mapping[str, float], estimator: Estimator) -> Quality:
    """The quality of a mask with this evidence, in a list of which nothing is known."""
    found = tuple(alarms(evidence))
    if "size" not in evidence:
        return Quality(0.0, 0.0, 0.0 if evidence else 1.0, reason(evidence, None), found)
    estimate = estimator.estimate(evidence)
    said = reason(evidence, None if estimate >= SURE else weakest(evidence, estimator))
    quality = Quality(estimate, reason=said, alarms=found, estimate=estimate)
    return quality.calibrated(Calibration.of([], estimator))


def weakest(evidence: Mapping[str, float], estimator: Estimator) -> str | None:
    """The feature without which the mask would be expected to be best; None where none speaks against it."""
    given = estimator.estimate(evidence)
    gains = {
        name: estimator.estimate({**evidence, name: mean}) - given
        for name, mean in zip(estimator.features, estimator.mean, strict=True)
        if name in evidence
    }
    name = max(gains, key=lambda name: gains[name], default=None)
    return name if name is not None and gains[name] > 0.01 else None


def told(judged: Mapping[str, Quality], evidence: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """JSON-able record of structures' qualities; `quality` alone is what records held before there were intervals."""
    return {
        "quality": {name: round(one.dice, 4) for name, one in judged.items()},
        "quality_interval": {
            name: [round(one.low, 4), round(one.high, 4)]
            for name, one in judged.items()
            if one.low is not None and one.high is not None
        },
        "quality_reason": {name: one.reason for name, one in judged.items()},
        "alarms": {name: list(one.alarms) for name, one in judged.items()},
        "quality_estimate": {name: one.estimate for name, one in judged.items() if one.estimate is not None},
        "evidence": {name: dict(found) for name, found in evidence.items()},
    }


def recorded(params: Any) -> dict[str, Quality]:
    """What a record holds, structure by structure; records can come from another version, or from a person."""
    params = params if isinstance(params, Mapping) else {}
    intervals, reasons, found, estimates = (
        _mapping(params, key) for key in ("quality_interval", "quality_reason", "alarms", "quality_estimate")
    )
    judged = {}
    for name, value in _mapping(params, "quality").items():
        if not _is_share(value):
            continue
        bounds = intervals.get(name)
        known = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_is_share, bounds))
        low, high = (float(bounds[0]), float(bounds[1])) if known and bounds else (None, None)
        said = found.get(name)
        heard = tuple(map(str, said)) if isinstance(said, list | tuple) else ()
        estimate = float(estimates[name]) if _is_share(estimates.get(name)) else None
        judged[str(name)] = Quality(float(value), low, high, str(reasons.get(name) or ""), heard, estimate)
    return judged


def evidence_of(params: Any) -> dict[str, dict[str, float]]:
    """The evidence in a record, structure by structure; empty for records without."""
    found = _mapping(params, "evidence") if isinstance(params, Mapping) else {}
    return {
        str(name): {str(key): float(value) for key, value in own.items() if _is_number(value)}
        for name, own in found.items()
        if isinstance(own, Mapping)
    }


def _mapping(params: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = params.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
