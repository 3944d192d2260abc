"""How costs are taken and judged: pieces of work in turns, their core and wall seconds, targets, and a history.

Core seconds are those of the process that does the work, all its threads together: they say more than seconds on a
machine that has other work too. Pieces take turns, so that all meet the same load.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A piece of work: `core` tells the core seconds so far of the process that does it."""

    name: str
    run: Callable[[], object]
    core: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Cost:
    """Seconds of a piece of work: medians and 95th percentiles over its runs."""

    core: float
    core_95: float
    wall: float
    wall_95: float
    runs: int

    @classmethod
    def of(cls, taken: Sequence[tuple[float, float]]) -> Cost:
        """Of (core, wall) seconds of each run."""
        (core, core_95), (wall, wall_95) = np.percentile(np.array(taken), (50, 95), axis=0).T.round(4).tolist()
        return cls(core, core_95, wall, wall_95, len(taken))


def costs(turns: Iterable[Iterable[Piece]]) -> dict[str, Cost]:
    """What each piece costs, by its name; the first turn warms up and does not count."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for turn, pieces in enumerate(turns):
        for piece in pieces:
            core, began = piece.core(), time.perf_counter()
            piece.run()
            one = piece.core() - core, time.perf_counter() - began
            if turn:
                taken.setdefault(piece.name, []).append(one)
    return {name: Cost.of(own) for name, own in taken.items()}


@dataclass(frozen=True)
class Target:
    """One promise: the measured value, and the bound that it must not exceed, or with `least` must reach."""

    name: str
    value: float
    target: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value >= self.target if self.least else self.value <= self.target

    def to_json(self) -> dict[str, Any]:
        """As the benchmark writes it."""
        return {**asdict(self), "met": self.met}


def at_most(bounds: Mapping[str, float], values: Mapping[str, float]) -> list[Target]:
    """The promises about what was measured."""
    return [Target(name, round(values[name], 3), bound) for name, bound in bounds.items() if name in values]


def at_least(name: str, value: float, bound: float) -> Target:
    """A promise that a value reaches a bound."""
    return Target(name, round(value, 3), bound, least=True)


def compared(now: Sequence[Target], history: Path) -> list[tuple[str, float, float]]:
    """(name, value when it was last measured, value now) of what was; the history is one JSON object a line."""
    if not history.exists():
        return []
    before = {
        one["name"]: one["value"] for line in history.read_text().splitlines() for one in json.loads(line)["targets"]
    }
    return [(one.name, before[one.name], one.value) for one in now if one.name in before]
