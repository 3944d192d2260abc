"""The demo's figures, for people and for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.measure.scores import mean_dice


@dataclass(frozen=True)
class Result:
    """What became of one study. Dice are 0 to 1: of the mask, and of the template's mask stretched; None without truth.

    labels: structure -> (dice, dice_copy), None where neither the mask nor the truth has it; dice and dice_copy are
    their means. predicted: the server's own estimate of the Dice, the mean over structures.
    """

    id: str
    template: str
    seconds: float
    predicted: float | None
    labels: Mapping[str, tuple[float | None, float | None]]

    @property
    def dice(self) -> float | None:
        return mean_dice([score for score, _ in self.labels.values()])

    @property
    def dice_copy(self) -> float | None:
        return mean_dice([copied for _, copied in self.labels.values()])


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """The demo's JSON; every Dice in 0..100, null where a study has no truth."""
    return {
        "studies": [
            {
                "id": result.id,
                "template": result.template,
                "dice": _points(result.dice),
                "dice_copy": _points(result.dice_copy),
                "predicted_dice": _points(result.predicted),
                "seconds": round(result.seconds, 2),
                "labels": {
                    name: {"dice": _points(dice), "dice_copy": _points(copied)}
                    for name, (dice, copied) in result.labels.items()
                },
            }
            for result in results
        ],
        "mean_dice": _points(mean_dice([result.dice for result in results])),
        "mean_dice_copy": _points(mean_dice([result.dice_copy for result in results])),
    }


def table(results: Sequence[Result]) -> str:
    """One row a study, then the mean; Dice in 0..100."""
    width = max(len("study"), *(len(short(result.id)) for result in results))
    head = f"{'study':<{width}}  {'Dice':>6}  {'copy':>6}  {'seconds':>7}  {'predicted':>9}"
    columns = [(r.dice, r.dice_copy, r.seconds, r.predicted) for r in results]
    rows = [_row(short(result.id), width, *column) for result, column in zip(results, columns, strict=True)]
    dice, copied, seconds, predicted = zip(*columns, strict=True)
    mean = _row("mean", width, mean_dice(dice), mean_dice(copied), float(np.mean(seconds)), mean_dice(predicted))
    return "\n".join([head, *rows, "-" * len(head), mean])


def short(name: str) -> str:
    """DICOM ids have 40 digits and more; their ends tell them apart."""
    return name if len(name) <= 24 else f"{name[:8]}...{name[-8:]}"


def percent(dice: float | None) -> str:
    return "-" if dice is None else f"{100 * dice:.1f}"


def _row(
    name: str, width: int, dice: float | None, copied: float | None, seconds: float, predicted: float | None
) -> str:
    return f"{name:<{width}}  {percent(dice):>6}  {percent(copied):>6}  {seconds:>7.1f}  {percent(predicted):>9}"


def _points(dice: float | None) -> float | None:
    return None if dice is None else round(100 * dice, 2)
