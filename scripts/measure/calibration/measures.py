"""How good predictions of quality are: of masks whose truth is known, in lists that teach as they are corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from lib.quality.alarms import alarms
from lib.quality.calibration import Calibration
from lib.quality.estimator import Estimator
from scripts.measure.calibration.lists import Record

CORRECTIONS = (0, 1, 5, 20)
DRAWS = 10
LEAST_LEFT = 5  # studies that must be left to be asked about
FAILED = 0.6
GOOD = 0.85
BAD = 0.75


@dataclass(frozen=True)
class PredictedMask:
    """One mask, what was said of it, and the truth."""

    list: str
    dice: float
    low: float
    high: float
    truth: float
    alarming: bool

    @property
    def accepted(self) -> bool:
        """Whether a person who accepts everything predicted at `GOOD` or better never sees it."""
        return self.dice >= GOOD and not self.alarming


def predict_lists(
    records: Sequence[Record], estimator: Estimator, corrections: int, seed: int = 0
) -> list[PredictedMask]:
    """What is said of each list's other studies after some random ones were corrected, several times over."""
    rng = np.random.default_rng(seed)
    lists: dict[str, list[Record]] = {}
    for record in records:
        lists.setdefault(record.group, []).append(record)
    answers: list[PredictedMask] = []
    for own in lists.values():
        studies = sorted({record.study for record in own})
        if len(studies) < corrections + (LEAST_LEFT if corrections else 0):
            continue
        raw = {id(record): _raw(record, estimator) for record in own}
        for _ in range(DRAWS if corrections else 1):
            corrected = set(rng.choice(studies, corrections, replace=False).tolist())
            answers += _predictions(own, raw, corrected, estimator)
    return answers


def _raw(record: Record, estimator: Estimator) -> float:
    return estimator.estimate(record.features) if "size" in record.features else 0.0


def _predictions(
    records: Sequence[Record], raw: Mapping[int, float], corrected: set[str], estimator: Estimator
) -> Iterator[PredictedMask]:
    for structure in {record.structure for record in records}:
        own = [record for record in records if record.structure == structure]
        taught = [(raw[id(r)], r.dice) for r in own if r.study in corrected and "size" in r.features]
        calibration = Calibration.of(taught, estimator)
        for record in own:
            if record.study in corrected:
                continue
            alarmed = bool(alarms(record.features))
            estimate = calibration.apply(raw[id(record)]) if "size" in record.features else (0.0, 0.0, 0.0)
            yield PredictedMask(record.list, *estimate, record.dice, alarmed)


def summary(answers: Sequence[PredictedMask]) -> dict[str, float | int | None]:
    """Correlation, errors, coverage and what accepting at `GOOD` would do; None where it cannot be said."""
    predicted, true = (np.array([getattr(one, key) for one in answers]) for key in ("dice", "truth"))
    inside = [one.low - 1e-9 <= one.truth <= one.high + 1e-9 for one in answers]
    taken = [one for one in answers if one.accepted]
    good = [one for one in answers if one.truth >= GOOD]
    return {
        "masks": len(answers),
        "true": _mean(true),
        "correlation": _correlation(predicted, true),
        "error": _mean(np.abs(predicted - true)),
        "auroc": auroc(-predicted, true < FAILED),
        "coverage": _mean(inside),
        "width": _mean([one.high - one.low for one in answers]),
        "accepted": len(taken),
        "accepted_bad": _mean([one.truth < BAD for one in taken]),
        "good_accepted": _mean([one.accepted for one in good]),
    }


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Share of pairs of a positive and a negative that the scores put in order; None without both."""
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    return float(np.corrcoef(one, other)[0, 1]) if len(one) > 2 and one.std() > 0 and other.std() > 0 else None


def _mean(values: Sequence[float] | Sequence[bool] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
