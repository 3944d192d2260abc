"""A mask on its way through a volume: from each prompted slice outward, slice by slice, until it is lost.

Each accepted slice is the template of the next, which also gets the accepted mask as its previous answer, since
neighbours differ little; nearby, the slice that the annotator prompted answers as well, so that errors add up more
slowly. The mask stops where it vanishes or no longer leads back to the prompted slice: leading back to its neighbour
says little, for both are wrong together.

A network answers several questions at once in less time than one after the other. So a mask is led back in the same
batch in which it already passes on, and while it led back well, only every few slices: where it then does not, those
before are led back as well, so that it stops where it would have stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.imaging.metrics import dice
from lib.imaging.prompts import PREVIOUS
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.inference.probabilities import to_probability
from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.networks.contract import Features

AHEAD = 4  # slices encoded together on the way outward
SURE = 0.75  # reverse Dice from which a mask passes on without being led back on every slice
UNCHECKED = 3  # slices that it then passes at most until it is led back again


@dataclass(frozen=True)
class OutwardSettings:
    """How a mask passes through a volume.

    Attributes:
        least_agreement: reverse Dice (0..1) with the prompted slice, below which a mask goes no further.
        anchor_slices: up to so many slices from it, the prompted slice answers beside the neighbour.
    """

    least_agreement: float = 0.5
    anchor_slices: int = 8


Maps = Callable[[str, int], np.ndarray]  # structure and slice to the prompt maps (2, 5, S, S) there


@dataclass(frozen=True, eq=False)
class Arrival:
    """An answer (S, S) of the network on a slice that a mask came to, and how many slices it came from its seed."""

    index: int
    distance: int
    logits: np.ndarray


@dataclass(eq=False)
class Front:
    """A mask on its way from a seed slice through the stack.

    Attributes:
        name: of the structure.
        seed, seed_mask: the slice that it started from, and the bool mask (S, S) there.
        step: 1 or -1.
        stop: the slice that it does not enter any more.
        arrivals: accepted, in the order of the way.
        agreements: reverse Dice with the seed's mask of those that were led back.
    """

    name: str
    seed: int
    seed_mask: np.ndarray
    step: int
    stop: int
    arrivals: list[Arrival] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at, self.mask = self.seed, self.seed_mask  # where it is, and with which mask
        self.previous: np.ndarray = self.seed_mask.astype(np.float32)  # the same as probabilities
        self._waiting: list[Arrival] = []  # answered, but not led back yet
        self._goes_on = self.way > 0

    @property
    def next(self) -> int:
        return self.at + self.step

    @property
    def distance(self) -> int:
        """Slices from the seed to the next one."""
        return abs(self.next - self.seed)

    @property
    def way(self) -> int:
        """Slices left to enter."""
        return abs(self.stop - self.at) - 1

    @property
    def goes_on(self) -> bool:
        """Whether another slice is to be asked."""
        return self._goes_on

    @property
    def due(self) -> Sequence[Arrival]:
        """What is to be led back now: the last answer, which speaks for those before it."""
        unsure = not self.agreements or self.agreements[-1] < SURE
        wanted = unsure or len(self._waiting) >= UNCHECKED or not self._goes_on
        return self._waiting[-1:] if wanted else ()

    @property
    def done(self) -> bool:
        """Whether nothing is left to be asked."""
        return not self._goes_on and not self._waiting

    def move(self, logits: np.ndarray) -> None:
        """Take the next slice's answer (S, S): go on from it, or end where there is nothing in it."""
        if not (logits > 0).any():
            self._goes_on = False
            return
        self._waiting.append(Arrival(self.next, self.distance, logits))
        self.at, self.mask, self.previous = self.next, logits > 0, to_probability(logits)
        self._goes_on = self.way > 0

    def accept(self, agreement: float) -> None:
        """What was answered so far led back this well."""
        self.arrivals += self._waiting
        self.agreements.append(agreement)
        self._waiting = []

    def turn_back(self) -> list[Arrival]:
        """End: the last answer did not lead back. Returns those before it that are not led back yet."""
        doubtful, self._waiting, self._goes_on = self._waiting[:-1], [], False
        return doubtful


def pass_outward(
    network: SliceNetwork,
    stack: Stack,
    fronts: Sequence[Front],
    maps: Maps,
    settings: OutwardSettings,
    control: Control = Control(),
) -> None:
    """Let every front go as far as it can; what it found is in its `arrivals`.

    Args:
        maps: what was prompted.
        control: follows the work and may end it.

    Raises:
        Cancelled: the control stopped it.
    """
    total = max(1, sum(front.way for front in fronts))
    open_fronts = [front for front in fronts if not front.done]
    while open_fronts:
        control.advance(1 - sum(front.way for front in open_fronts) / total)
        _advance(network, stack, open_fronts, maps, settings)
        open_fronts = [front for front in open_fronts if not front.done]


def _advance(
    network: SliceNetwork, stack: Stack, fronts: Sequence[Front], maps: Maps, settings: OutwardSettings
) -> None:
    """Every front by one slice, and those led back that are due."""
    going = [front for front in fronts if front.goes_on]
    ahead = [i for f in going for i in range(f.next, f.next + f.step * min(AHEAD, f.way), f.step)]
    features = network.encode(stack, [*ahead, *(i for f in fronts for i in (f.at, f.seed))])
    questions, counts = [], []
    for front in going:
        sources = [(front.at, front.mask)]
        if front.at != front.seed and front.distance <= settings.anchor_slices:
            sources.append((front.seed, front.seed_mask))
        own = maps(front.name, front.next)
        own[0, PREVIOUS], own[1, PREVIOUS] = front.previous, 1 - front.previous
        questions += [Question(features[front.next], features[i], mask_maps(m, network.size), own) for i, m in sources]
        counts.append(len(sources))
    due = [(front, arrival) for front in fronts for arrival in front.due]
    back = _led_back(network, due, features)
    replies = network.answers([*questions, *back])
    answers = [np.mean([next(replies) for _ in range(count)], axis=0) for count in counts]
    agreements = [dice(front.seed_mask, reverse > 0) for (front, _), reverse in zip(due, replies, strict=True)]
    lost = set()
    for (front, _), agreement in zip(due, agreements, strict=True):
        if agreement >= settings.least_agreement:
            front.accept(agreement)
        else:
            lost.add(front)
            _settle(network, stack, front, settings.least_agreement)
    for front, answer in zip(going, answers, strict=True):
        if front not in lost:
            front.move(answer)


def _settle(network: SliceNetwork, stack: Stack, front: Front, least_agreement: float) -> None:
    """End a front whose last answer does not lead back, at the first one of those before it that does not."""
    doubtful = [(front, arrival) for arrival in front.turn_back()]
    features = network.encode(stack, [front.seed, *(arrival.index for _, arrival in doubtful)])
    for (_, arrival), reverse in zip(doubtful, network.answers(_led_back(network, doubtful, features)), strict=True):
        agreement = dice(front.seed_mask, reverse > 0)
        if agreement < least_agreement:
            return
        front.arrivals.append(arrival)
        front.agreements.append(agreement)


def _led_back(
    network: SliceNetwork, arrivals: Sequence[tuple[Front, Arrival]], features: Mapping[int, Features]
) -> list[Question]:
    """Does the answer on a slice, taken as a mask, show its seed slice what it came from?"""
    return [
        Question(features[front.seed], features[arrival.index], mask_maps(arrival.logits > 0, network.size))
        for front, arrival in arrivals
    ]
