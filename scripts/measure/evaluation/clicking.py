"""Interactive segmentation with the usual simulated clicker: each click in the middle of the largest error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.imaging.metrics import Score, dice, score
from lib.imaging.prompts import Prompt
from lib.learning.simulated_prompts import corrective_click
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import ClickMethod

TARGETS = (80, 85, 90)  # per cent Dice
REPORTED = (1, 3, 5)  # clicks after which the mask is scored
ENOUGH = max(REPORTED)  # clicks that are made even where the last target is reached before


@dataclass
class Clicked:
    """One image under the clicker.

    Attributes:
        dices: 0 to 100, after each click.
        scores: number of clicks (of `REPORTED`) to the score then.
        mask: the last answer.
    """

    case: Case
    truth: np.ndarray
    prompt: Prompt = field(default_factory=Prompt)
    mask: np.ndarray = field(init=False)
    dices: list[float] = field(default_factory=list)
    scores: dict[int, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mask = np.zeros_like(self.truth)

    def click(self) -> None:
        """Add the next click to the prompt, and the last answer as what it corrects."""
        point, inside = next_click(self.mask, self.truth, self.case.axis)
        side = "foreground" if inside else "background"
        previous = self.mask if self.dices else None
        self.prompt = self.prompt.replace(**{side: (*getattr(self.prompt, side), point)}, previous=previous)

    def take(self, mask: np.ndarray) -> None:
        """The method's answer to the clicks so far."""
        self.mask = mask
        self.dices.append(100 * dice(mask, self.truth))
        if len(self.dices) in REPORTED:
            self.scores[len(self.dices)] = score(mask, self.truth, self.case.image.spacing)

    @property
    def done(self) -> bool:
        """No error is left, or nothing that is reported can change any more."""
        reached = bool(self.dices) and max(self.dices) >= max(TARGETS)
        return bool((self.mask == self.truth).all()) or (reached and len(self.dices) >= ENOUGH)

    def clicks_to(self, target: float, most: int) -> int:
        """Clicks to the first mask of this Dice; `most` where it was never reached, as is usual."""
        return next((n for n, value in enumerate(self.dices, 1) if value >= target), most)

    def score_after(self, clicks: int) -> Score:
        """The score after so many clicks; of the last mask where fewer were needed."""
        if clicks not in self.scores:
            self.scores[clicks] = score(self.mask, self.truth, self.case.image.spacing)
        return self.scores[clicks]


def click_through(method: ClickMethod, cases: Sequence[Case], value: int, most: int) -> list[Clicked]:
    """Click on every case until it is done or `most` clicks were made; all cases advance together."""
    everyone = [Clicked(case, case.mask(value)) for case in cases]
    for _ in range(most):
        active = [one for one in everyone if not one.done]
        if not active:
            break
        for one in active:
            one.click()
        masks = method.masks([one.case for one in active], [one.prompt for one in active])
        for one, mask in zip(active, masks, strict=True):
            one.take(mask)
    return everyone


def next_click(mask: np.ndarray, truth: np.ndarray, axis: int) -> tuple[tuple[int, ...], bool]:
    """Voxel of the next click and whether it is foreground, for bool arrays that differ somewhere.

    In a volume the annotator turns to the slice along `axis` with the most wrong voxels and clicks there.
    """
    if mask.ndim == 2:
        click = corrective_click(mask, truth)
        assert click is not None
        return click
    others = tuple(n for n in range(3) if n != axis)
    index = int((mask != truth).sum(axis=others).argmax())
    point, inside = next_click(np.take(mask, index, axis), np.take(truth, index, axis), axis)
    return (*point[:axis], index, *point[axis:]), inside
