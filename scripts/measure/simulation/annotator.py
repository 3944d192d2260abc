"""The annotator of one study: clicks in the middle of the largest error until a structure is good enough.

A click is sent to `oneprompt_click` together with the mask that it corrects, as a client's scribble is. Where the most
clicks do not suffice, the annotator gives up on clicking and redraws slices by hand (`outlines`).

Another annotator accepts slices on the way, and a third one does not click at all: that one paints the most wrong
slice, lets it carry, and goes on to the slice that is most wrong then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import Image, read_label, write_label
from lib.imaging.metrics import dice
from lib.imaging.runs import runs_of
from lib.imaging.volumes import Stack
from scripts.measure.evaluation.clicking import next_click
from scripts.measure.simulation.goals import GOALS, MOST_CLICKS
from scripts.measure.simulation.outlines import CORNERS, draw, outline
from scripts.servers.client import Client

CLEARED = 0.5  # Dice below which a mask is more wrong than right, and a person begins anew
PAINTED = 0.95  # Dice of a slice whose outline is to carry, and of one that is accepted
HANDS = ("clicks", "accepts", "paints")

Ask = Callable[[str, Mapping[str, Any], np.ndarray, Mapping[int, np.ndarray]], np.ndarray]


@dataclass
class Work:
    """What one structure of one study cost.

    Attributes:
        start: Dice before the first click; 0 where the annotator began with nothing.
        dices: after each click; clearing a mask that is more wrong than right is one, and leaves nothing.
        drawing: {goal: clicks of drawing by hand after the last click}.
    """

    start: float
    dices: list[float] = field(default_factory=list)
    drawing: dict[float, int] = field(default_factory=dict)

    def after(self, clicks: int) -> float:
        """Dice after so many clicks; that of the last one where fewer were given."""
        return [self.start, *self.dices][: clicks + 1][-1]

    def reached(self, goal: float) -> int | None:
        """Clicks until the goal was reached without drawing; None where it was not."""
        return next((n for n, value in enumerate([self.start, *self.dices]) if value >= goal), None)

    def clicks(self, goal: float) -> int:
        """Clicks until the goal was reached, those of drawing included."""
        reached = self.reached(goal)
        return len(self.dices) + self.drawing[goal] if reached is None else reached

    def limited(self, goal: float) -> bool:
        """Whether the goal was not reached by clicking."""
        return self.reached(goal) is None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        drawing = {str(goal): clicks for goal, clicks in self.drawing.items()}
        return {"start": self.start, "dices": self.dices, "drawn": drawing}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Work:
        """From `to_dict`."""
        return cls(record["start"], list(record["dices"]), {float(goal): n for goal, n in record["drawn"].items()})


@dataclass(frozen=True)
class Annotator:
    """Who knows the truth of a study and works on it.

    Attributes:
        image: the study.
        truth: {structure: bool array of its shape}.
        ask: (structure, clicks as request parameters, mask that they correct, {slice: its mask} of what was painted or
            accepted) to the server's mask.
        hand: of `HANDS`; of a picture nothing can be carried, so that there is clicked.
    """

    image: Image
    truth: Mapping[str, np.ndarray]
    ask: Ask
    goals: Sequence[float] = GOALS
    most: int = MOST_CLICKS
    hand: str = "clicks"

    @property
    def axis(self) -> int:
        """Array axis that the annotator scrolls along."""
        return Stack.of(self.image).own_axis

    def annotate(self, start: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Work]]:
        """Work on every structure, from the mask that is there; {structure: mask}, {structure: what it cost}."""
        masks, work = {}, {}
        for name, truth in self.truth.items():
            first = start.get(name, np.zeros_like(truth))
            paints = self.hand == "paints" and truth.ndim == 3
            masks[name], work[name] = (self._paint if paints else self._structure)(name, truth, first)
        return masks, work

    def _structure(self, name: str, truth: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Work]:
        work, best = Work(dice(mask, truth)), mask
        points: dict[str, list[list[int]]] = {"foreground": [], "background": []}
        accepted: dict[int, np.ndarray] = {}
        if mask.any() and work.start < CLEARED:
            mask = np.zeros_like(mask)
            work.dices.append(round(dice(mask, truth), 4))
        while len(work.dices) < self.most:
            if work.start >= self.goals[-1] or (work.dices and work.dices[-1] >= self.goals[-1]):
                break
            looked_at = self._with_truth_on(accepted, mask, truth)
            if (looked_at == truth).all():
                break
            point, inside = next_click(looked_at, truth, self.axis)
            points["foreground" if inside else "background"].append(list(point))
            mask = self.ask(name, points, mask, accepted)
            work.dices.append(round(dice(mask, truth), 4))
            best = mask if dice(mask, truth) >= dice(best, truth) else best
            if self.hand == "accepts" and truth.ndim == 3:
                own, wanted = (np.take(volume, point[self.axis], self.axis) for volume in (mask, truth))
                if dice(own, wanted) >= PAINTED:
                    accepted[point[self.axis]] = own
                    work.dices.append(work.dices[-1])
        left = [goal for goal in self.goals if work.limited(goal)]
        if left:
            best, corners = draw(best, truth, self.axis, left)
            work.drawing = corners
        return best, work

    def _with_truth_on(self, slices: Iterable[int], mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """The mask as if it were right on some slices: nobody clicks where it was accepted."""
        right = mask.copy()
        for index in slices:
            place = (slice(None),) * self.axis + (index,)
            right[place] = truth[place]
        return right

    def _paint(self, name: str, truth: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Work]:
        """Paint the most wrong slice and let it carry until the last goal; each corner of an outline is a click."""
        work = Work(dice(mask, truth))
        painted: dict[int, np.ndarray] = {}
        wanted = np.moveaxis(truth, self.axis, 0)
        while dice(mask, truth) < self.goals[-1]:
            own = np.moveaxis(mask, self.axis, 0)
            wrong = (own != wanted).sum(axis=(1, 2))
            wrong[[*painted]] = 0  # a painted slice is as good as it gets
            if not wrong.any():
                break
            index = int(wrong.argmax())
            painted[index], clicks = _clicks(own[index], wanted[index])
            before = dice(mask, truth)
            mask = self.ask(name, {}, mask, painted)
            work.dices += [*[round(before, 4)] * (clicks - 1), round(dice(mask, truth), 4)]
        left = [goal for goal in self.goals if work.limited(goal)]
        if left:
            mask, work.drawing = draw(mask, truth, self.axis, left)
        return mask, work


def _clicks(mask: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """A slice as it is painted, and the clicks that takes."""
    if not wanted.any():
        return np.zeros_like(wanted), 1
    filled, corners = outline(wanted, PAINTED)
    return (filled, corners) if dice(filled, wanted) > dice(mask, wanted) else (wanted, CORNERS[-1])


def ask_server(client: Client, image_id: str, image: Image) -> Ask:
    """Clicks and paint on a study of a real server."""
    axis = Stack.of(image).own_axis

    def ask(name: str, points: Mapping[str, Any], mask: np.ndarray, painted: Mapping[int, np.ndarray]) -> np.ndarray:
        prompts: dict[str, Any] = {**points, "label": name}
        if painted:
            slices = {str(index): runs_of(own) for index, own in painted.items()}
            prompts = {"prompts": {name: {**points, "painted": {"axis": axis, "slices": slices}}}}
        params = {**prompts, "label_info": [{"name": name, "idx": 1}], "result_extension": ".nii.gz"}
        with tempfile.TemporaryDirectory() as folder:
            answer, corrected = Path(folder) / "answer.nii.gz", Path(folder) / "mask.nii.gz"
            if mask.any():
                write_label(corrected, mask.astype(np.uint8), image)
            answer.write_bytes(
                client.infer("oneprompt_click", image_id, params, label=corrected if mask.any() else None)
            )
            return read_label(answer, like=image) > 0

    return ask
