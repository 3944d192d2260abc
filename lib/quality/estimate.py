"""How good is a mask that nobody has checked? One number, an interval, and one reason.

`lib.quality.features` measures what speaks for it, `lib.quality.estimator` weighs that, `lib.quality.calibration`
learns from the list's own corrected studies, and `lib.quality.alarms` says what a person would see. Where no estimator
was fitted for a model's weights there is no number, and the reason says so; alarms need none.
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
UNKNOWN = "no quality is predicted: nothing was fitted for these weights"


@dataclass(frozen=True)
class Quality:
    """What is expected of one structure's mask.

    Attributes:
        dice: expected Dice, 0 to 1; None where nothing was fitted for the weights.
        low, high: where the true Dice lies in 9 of 10 cases; None where nobody knows.
        reason: the one thing to know about it.
        alarms: what is alarming, the most alarming first.
        estimate: what was expected before the list's own corrections were looked at; None where nothing was found.
    """

    dice: float | None
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


def estimate_quality(features: Mapping[str, float], estimator: Estimator | None) -> Quality:
    """The quality of a mask with these features, in a list of which nothing is known."""
    warnings = tuple(alarms(features))
    if estimator is None:
        return Quality(None, reason=warnings[0] if warnings else UNKNOWN, alarms=warnings)
    if "size" not in features:
        return Quality(0.0, 0.0, 0.0 if features else 1.0, reason(features, None), warnings)
    estimate = estimator.estimate(features)
    why = reason(features, None if estimate >= SURE else weakest(features, estimator))
    quality = Quality(estimate, reason=why, alarms=warnings, estimate=estimate)
    return quality.calibrated(Calibration.of([], estimator))


def weakest(features: Mapping[str, float], estimator: Estimator) -> str | None:
    """The feature without which the mask would be expected to be best; None where none speaks against it."""
    given = estimator.estimate(features)
    gains = {
        name: estimator.estimate({**features, name: mean}) - given
        for name, mean in zip(estimator.features, estimator.mean, strict=True)
        if name in features
    }
    name = max(gains, key=lambda name: gains[name], default=None)
    return name if name is not None and gains[name] > 0.01 else None


def quality_record(qualities: Mapping[str, Quality], features: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """JSON-able record of structures' qualities; `quality` alone is what records held before there were intervals."""
    return {
        "quality": {name: round(one.dice, 4) for name, one in qualities.items() if one.dice is not None},
        "quality_interval": {
            name: [round(one.low, 4), round(one.high, 4)]
            for name, one in qualities.items()
            if one.low is not None and one.high is not None
        },
        "quality_reason": {name: one.reason for name, one in qualities.items()},
        "alarms": {name: list(one.alarms) for name, one in qualities.items()},
        "quality_estimate": {name: one.estimate for name, one in qualities.items() if one.estimate is not None},
        "evidence": {name: dict(own) for name, own in features.items()},
    }


def read_qualities(params: Any) -> dict[str, Quality]:
    """What a record holds, structure by structure; records can come from another version, or from a person."""
    params = params if isinstance(params, Mapping) else {}
    intervals, reasons, warnings, estimates, numbers = (
        _mapping(params, key) for key in ("quality_interval", "quality_reason", "alarms", "quality_estimate", "quality")
    )
    qualities = {}
    for name in dict.fromkeys([*numbers, *(name for name, why in reasons.items() if isinstance(why, str))]):
        dice = numbers.get(name)
        if name in numbers and not _is_fraction(dice):
            continue
        bounds = intervals.get(name)
        known = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_is_fraction, bounds))
        low, high = (float(bounds[0]), float(bounds[1])) if known and bounds else (None, None)
        own = warnings.get(name)
        qualities[str(name)] = Quality(
            float(dice) if dice is not None else None,
            low,
            high,
            str(reasons.get(name) or ""),
            tuple(map(str, own)) if isinstance(own, list | tuple) else (),
            float(estimates[name]) if _is_fraction(estimates.get(name)) else None,
        )
    return qualities


def read_features(params: Any) -> dict[str, dict[str, float]]:
    """The features in a record, structure by structure; empty for records without."""
    stored = _mapping(params, "evidence") if isinstance(params, Mapping) else {}
    return {
        str(name): {str(key): float(value) for key, value in own.items() if _is_number(value)}
        for name, own in stored.items()
        if isinstance(own, Mapping)
    }


def _mapping(params: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = params.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
