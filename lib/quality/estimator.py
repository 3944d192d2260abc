"""From what speaks for a mask to the Dice that can be expected: a small regressor in a JSON file.

It was fitted on masks of certain weights whose truth is known (`python -m scripts.calibrate`), of data sets that the
one it is asked about is not among; it lies beside those weights and says nothing of others. Beside the number it keeps
how far the truth lay from it, so that every estimate has bounds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import write_atomically
from lib.networks.checkpoints import SHIPPED_WEIGHTS

SUFFIX = ".quality.json"  # instead of the weights' own
SHIPPED_ESTIMATOR = SHIPPED_WEIGHTS.with_suffix(SUFFIX)
ALSO_FOR = "also_for"  # key of `about`: further weights on whose masks its estimates were measured and hold
VERSION = 1
FARTHEST = 3.0  # standard deviations: what lies further out than anything seen says no more than that


logger = logging.getLogger(__name__)


class EstimatorError(ValueError):
    """A file that holds no estimator."""


@dataclass(frozen=True)
class Estimator:
    """A few networks of one hidden layer, or none, whose answers are averaged.

    Attributes:
        features: names of what it weighs, in order; one that is missing counts as average.
        mean, scale: of each feature where it was fitted.
        members: of each network its layers, {"weights": (out, in), "bias": (out,)}; tanh between them.
        steps: estimates at which the bounds are known, rising.
        low, high: 5 % and 95 % bounds of the true Dice at those.
        scores: how far the truth lay outside its bounds (inside: negative) where it was fitted, for the calibration.
        about: what it was fitted on, with which weights, and how well it did.
    """

    features: Sequence[str]
    mean: Sequence[float]
    scale: Sequence[float]
    members: Sequence[Sequence[Mapping[str, Any]]]
    steps: Sequence[float] = (0.0, 1.0)
    low: Sequence[float] = (0.0, 0.0)
    high: Sequence[float] = (1.0, 1.0)
    scores: Sequence[float] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    @cache
    def shipped() -> Estimator:
        """The estimator beside the shipped weights."""
        return Estimator.read(SHIPPED_ESTIMATOR)

    @classmethod
    def valid_for(cls, weights_hash: str, weights: Path = SHIPPED_WEIGHTS) -> Estimator | None:
        """The estimator beside a weights file; None where there is none, or one for other weights alone.

        Args:
            weights_hash: see `lib.networks.checkpoints.weights_hash`.
            weights: the file.

        Raises:
            EstimatorError: a file that holds no estimator.
        """
        path = weights.with_suffix(SUFFIX)
        if not path.is_file():
            return None
        estimator = cls.shipped() if path == SHIPPED_ESTIMATOR else cls.read(path)
        if weights_hash in (estimator.about.get("weights"), *estimator.about.get(ALSO_FOR, ())):
            return estimator
        logger.info(
            "%s was fitted for other weights than %s: no quality is predicted until it is made again, with "
            "python -m scripts.calibrate",
            path,
            weights_hash,
        )
        return None

    @classmethod
    def read(cls, path: Path) -> Estimator:
        """Raises EstimatorError."""
        try:
            values = json.loads(path.read_text())
            version = values.pop("version")
            estimator = cls(**values)
            sizes = {len(estimator.features), len(estimator.mean), len(estimator.scale)}
            bounds = {len(estimator.steps), len(estimator.low), len(estimator.high)}
            estimate = estimator.estimate({})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise EstimatorError(f"{path} must hold what scripts.calibrate writes: {error!r}") from error
        if version != VERSION or len(sizes) > 1 or len(bounds) > 1 or not np.isfinite(estimate):
            raise EstimatorError(f"{path} must hold an estimator of version {VERSION}, got {version}: make it again")
        return estimator

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_atomically(path, json.dumps({"version": VERSION, **asdict(self)}).encode())

    def estimate(self, features: Mapping[str, float]) -> float:
        """Expected Dice, 0 to 1, of what `lib.quality.features.measure_features` gives."""
        given = np.array([features.get(name, np.nan) for name in self.features], float)
        inputs = np.clip(np.nan_to_num((given - self.mean) / np.asarray(self.scale)), -FARTHEST, FARTHEST)
        return float(np.mean([_answer(member, inputs) for member in self.members]))

    def bounds(self, estimate: float) -> tuple[float, float]:
        """Between these the true Dice lies in 9 of 10 cases, of lists like those it was fitted on."""
        low, high = (float(np.interp(estimate, self.steps, line)) for line in (self.low, self.high))
        return low, high


def _answer(member: Sequence[Mapping[str, Any]], values: np.ndarray) -> float:
    for place, layer in enumerate(member):
        values = np.asarray(layer["weights"]) @ (np.tanh(values) if place else values) + np.asarray(layer["bias"])
    return float(1 / (1 + np.exp(-values[0])))
