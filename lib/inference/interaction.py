"""Prompts on the image itself: the prompted slices answer, then the mask passes outward through the volume.

A query that is its own template is ordinary interactive segmentation. In a volume the answers then pass outward
(`lib.inference.outward`).

A correction of a mask is answered on those prompted slices where the mask disagrees with it, and carried to the slices
around them (`lib.inference.carrying`), and so is what a painted slice changed. Painted and confirmed slices, and slices
that agree already, stand as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lib.imaging.metrics import dice
from lib.imaging.prompts import BBOX, PREVIOUS, Prompt, PromptError, rasterise
from lib.imaging.transforms import resize_logits, resize_mask
from lib.imaging.volumes import Stack
from lib.inference.carrying import CarrySettings, carried_slices, disagreeing, inside_of, paint_carried, standing_slices
from lib.inference.control import Control
from lib.inference.outward import Arrival, Front, OutwardSettings, pass_outward
from lib.inference.probabilities import at_both, box_reaching_threshold, to_probability
from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.networks.contract import Features

TAKEN_UP = 0.5  # of a slice's strokes: drawn quickly they run over the border
PASSES = 3  # of a first answer: boxes and strokes gain 2 Dice by their own answer as the previous one, clicks nothing


@dataclass(frozen=True)
class InteractionSettings(OutwardSettings):
    """How a mask passes through a volume, and how corrections do.

    Attributes:
        carry: how far corrections carry.
    """

    carry: CarrySettings = field(default_factory=CarrySettings)


@dataclass
class Answer:
    """What is known of one structure in one stack.

    Attributes:
        logits: slice index to (S, S) of the network.
        trusted: slice index to a bool (H, W) mask that stands as it is: painted, or answered before.
        agreements: reverse Dice of slices, for the predicted quality.
    """

    logits: dict[int, np.ndarray] = field(default_factory=dict)
    trusted: dict[int, np.ndarray] = field(default_factory=dict)
    agreements: list[float] = field(default_factory=list)

    def beside(self, finer: Answer) -> Answer:
        """The mean of this answer and of one to the same prompts at a finer resolution."""
        logits = {index: at_both(own, finer.logits[index]) for index, own in self.logits.items()}
        return Answer(logits, self.trusted, self.agreements + finer.agreements)


def is_refinement(prompt: Prompt) -> bool:
    """Whether the prompt corrects an answer that segmented something."""
    return prompt.previous is not None and bool(inside_of(prompt.previous).any())


def seeds_of(prompt: Prompt, axis: int) -> list[int]:
    """Slices that show where the structure is; of a box alone the middle one, where a structure is surest to be."""
    pointed = Prompt(foreground=prompt.foreground, doodle=prompt.doodle, mask=prompt.mask).slices(axis)
    if pointed or prompt.box is None:
        return pointed
    low, high = prompt.box[2 * axis : 2 * axis + 2]
    return [(low + high - 1) // 2]


def reach(prompt: Prompt, axis: int, count: int) -> tuple[int, int]:
    """Half-open range of slices that a structure may reach: a box over several slices limits it, one slice does not."""
    if prompt.box is not None:
        low, high = prompt.box[2 * axis : 2 * axis + 2]
        if not on_one_slice(prompt.box, axis):
            return low, high
    return 0, count


def on_slice(prompt: Prompt, axis: int, index: int) -> Prompt:
    """The 2-D prompt on one slice. A mask painted on other slices says nothing about this one."""
    flat = prompt.on_slice(axis, index)
    if flat.mask is not None and not flat.mask.any():
        flat = flat.replace(mask=None)
    return flat if is_refinement(prompt) else flat.replace(previous=None)


def on_one_slice(box: Sequence[int] | None, axis: int) -> bool:
    """Whether a 3-D box, where there is one, lies on a single slice."""
    return box is None or box[2 * axis + 1] - box[2 * axis] == 1


def own_answers(
    network: SliceNetwork,
    slices: Sequence[tuple[Features, np.ndarray]],
    tight: Sequence[bool] | None = None,
    control: Control = Control(),
) -> list[np.ndarray]:
    """Logits (S, S) of slices that are their own templates, each with the prompt maps (2, 5, S, S) on it.

    A prompt that does not come with the mask it corrects is answered in several passes, each with the answer before; if
    it has a box, the answer is then cut where it reaches the box's sides, unless `tight` says of it that the box was
    drawn around more than this slice.
    """
    maps = [own for _, own in slices]
    answers = list(network.answers((Question(features, features, own, own) for features, own in slices), control))
    first = [place for place, own in enumerate(maps) if not own[:, PREVIOUS].any()]
    for _ in range(PASSES - 1):
        for place in first:
            inside = to_probability(answers[place])
            maps[place] = maps[place].copy()
            maps[place][:, PREVIOUS] = inside, 1 - inside
        again = network.answers((Question(slices[n][0], slices[n][0], maps[n], maps[n]) for n in first), control)
        for place, logits in zip(first, again, strict=True):
            answers[place] = logits
    for place in first:
        inside = (maps[place][:, BBOX] > 0).all(axis=0)
        if inside.any() and (tight is None or tight[place]):
            answers[place] = answers[place] - box_reaching_threshold(answers[place], inside)
    return answers


class Interaction:
    """One stack with the prompts on it, in canonical orientation."""

    def __init__(
        self,
        network: SliceNetwork,
        stack: Stack,
        prompts: Mapping[str, Prompt],
        settings: InteractionSettings,
    ) -> None:
        self.network, self.stack, self.prompts, self.settings = network, stack, dict(prompts), settings
        self.answers = {name: Answer() for name in prompts}
        self._carried: dict[str, dict[int, np.ndarray]] = {name: {} for name in prompts}

    def run(self, only_slice: bool, control: Control = Control()) -> dict[str, Answer]:
        """Answer the prompted slices, and unless `only_slice` the rest of the volume where it is not answered yet.

        Raises:
            PromptError: a structure without anything that shows where it is.
            Cancelled: the control stopped it.
        """
        direct, fronts = {}, []
        for name, prompt in self.prompts.items():
            known = is_refinement(prompt)
            prompted = prompt.slices(self.stack.axis)
            seeds = seeds_of(prompt, self.stack.axis)
            if not seeds and not known:
                raise PromptError(
                    f"{name!r} needs a click, stroke, box or mask inside the structure on a first answer, got "
                    f"{'background only' if prompted else 'nothing'}: add one"
                )
            direct[name] = prompted if known or only_slice else seeds
            if self._carries(name, only_slice):
                self._carry(name)
                direct[name] = disagreeing(self.prompts[name], self.stack.axis)
            if not known and not only_slice:
                fronts.append(name)
        self._keep_what_stands(direct, only_slice)
        self._answer_prompted(direct, control)
        self._insist_on_clicks()
        if not only_slice:
            self._pass_outward({name: direct[name] for name in fronts}, control)
        return self.answers

    def _carries(self, name: str, only_slice: bool) -> bool:
        """Whether the prompt is a correction of a mask in a volume."""
        return is_refinement(self.prompts[name]) and not only_slice and len(self.stack) > 1

    def _carry(self, name: str) -> None:
        """What the correction's paint and clicks make of the mask before the network is asked."""
        prompt, axis = self.prompts[name], self.stack.axis
        if standing_slices(prompt, axis):
            mask = paint_carried(prompt, axis, self.stack.proportions, self.settings.carry)
            self.prompts[name] = prompt = prompt.replace(previous=mask)
        low, high = reach(prompt, axis, len(self.stack))
        carried = carried_slices(prompt, axis, self.stack.proportions, self.settings.carry)
        self._carried[name] = {index: mask for index, mask in carried.items() if low <= index < high}

    def _insist_on_clicks(self) -> None:
        """Where the network did not take up what was clicked, the carried correction stands, which does."""
        for name, answer in self.answers.items():
            for index, mask in self._carried[name].items():
                if index in answer.logits and not self._takes_up(name, index):
                    answer.trusted[index] = mask

    def _takes_up(self, name: str, index: int) -> bool:
        """Whether the network's answer on a slice is as every click there says, and as most of the strokes do."""
        logits = self.answers[name].logits[index]
        mask = resize_logits(torch.from_numpy(logits)[None, None], self.stack.slice(index).shape)[0, 0].numpy() > 0
        flat = self.prompts[name].on_slice(self.stack.axis, index)
        clicked = all(mask[point] for point in flat.foreground) and not any(mask[point] for point in flat.background)
        strokes = ((flat.doodle, mask), (flat.background_doodle, ~mask))
        return clicked and all(stroke is None or inside[stroke].mean() >= TAKEN_UP for stroke, inside in strokes)

    def _keep_what_stands(self, direct: Mapping[str, Sequence[int]], only_slice: bool) -> None:
        """Painted slices, and in a refinement everything that the new prompts do not change."""
        axis = self.stack.axis
        for name, prompt in self.prompts.items():
            trusted = self.answers[name].trusted
            if is_refinement(prompt) and not only_slice:
                assert prompt.previous is not None
                before = np.moveaxis(inside_of(prompt.previous), axis, 0)
                untouched = set(range(len(self.stack))) - set(direct[name])
                trusted.update({index: self._carried[name].get(index, before[index]) for index in untouched})
            for index in standing_slices(prompt, axis):
                painted = np.zeros(self.stack.array.shape, bool) if prompt.mask is None else prompt.mask
                trusted[index] = np.moveaxis(painted, axis, 0)[index]

    def _answer_prompted(self, direct: Mapping[str, Sequence[int]], control: Control) -> None:
        targets = [
            (name, i) for name, indices in direct.items() for i in indices if i not in self.answers[name].trusted
        ]
        features = self.network.encode(self.stack, [index for _, index in targets], control=control.part(0, 0))
        maps = {key: self._maps(*key) for key in targets}
        tight = [on_one_slice(self.prompts[name].box, self.stack.axis) for name, _ in targets]
        slices = [(features[index], maps[name, index]) for name, index in targets]
        own = own_answers(self.network, slices, tight, control)
        for (name, index), logits in zip(targets, own, strict=True):
            self.answers[name].logits[index] = logits
        self._measure_agreement(targets, features)

    def _measure_agreement(self, targets: Sequence[tuple[str, int]], features: Mapping[int, Features]) -> None:
        """Does each slice's answer, taken as a mask, lead back to itself?"""
        masks = [self.answers[name].logits[index] > 0 for name, index in targets]
        back = [
            Question(features[index], features[index], mask_maps(mask, self.network.size))
            for (_, index), mask in zip(targets, masks, strict=True)
        ]
        for (name, _), mask, logits in zip(targets, masks, self.network.answers(back), strict=True):
            self.answers[name].agreements.append(dice(mask, logits > 0))

    def _pass_outward(self, seeds: Mapping[str, Sequence[int]], control: Control) -> None:
        fronts = [front for name, indices in seeds.items() for front in self._fronts(name, indices)]
        pass_outward(self.network, self.stack, fronts, self._maps, self.settings, control)
        arrived: dict[tuple[str, int], list[Arrival]] = {}
        for front in fronts:
            self.answers[front.name].agreements.extend(front.agreements)
            for arrival in front.arrivals:
                arrived.setdefault((front.name, arrival.index), []).append(arrival)
        for (name, index), parts in arrived.items():
            weights = [1 / part.distance for part in parts]
            self.answers[name].logits[index] = np.average([part.logits for part in parts], axis=0, weights=weights)

    def _fronts(self, name: str, seeds: Sequence[int]) -> list[Front]:
        """Two ways out of each seed, up to the next seed or the end of the structure's reach."""
        low, high = reach(self.prompts[name], self.stack.axis, len(self.stack))
        fronts = []
        for place, seed in enumerate(seeds):
            mask = self._low_resolution(name, seed)
            below = seeds[place - 1] if place else low - 1
            above = seeds[place + 1] if place + 1 < len(seeds) else high
            if mask.any():
                fronts += [Front(name, seed, mask, step, stop) for step, stop in ((-1, below), (1, above))]
        return fronts

    def _maps(self, name: str, index: int) -> np.ndarray:
        flat = on_slice(self.prompts[name], self.stack.axis, index)
        if index in self._carried[name]:
            flat = flat.replace(previous=self._carried[name][index])
        return rasterise(flat, self.stack.slice(index).shape, self.network.size)

    def _low_resolution(self, name: str, index: int) -> np.ndarray:
        answer = self.answers[name]
        if index in answer.trusted:
            return resize_mask(answer.trusted[index], self.network.size) >= 0.5
        return answer.logits[index] > 0
