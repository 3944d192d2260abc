"""Which slices of a template each slice of a query is compared with.

Two stacks of the same anatomy are first aligned as wholes (`lib.imaging.volumes.align`), so that a slice beyond the
organ meets the template's slices beyond the organ and not the most similar one inside it; then each query slice takes
the template slices around its place in the alignment.

Slices are compared by their coarse grey values. The encoder's own features, pooled, align worse: they are trained to
tell structures apart within a slice, not slices within a body (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.imaging.transforms import normalise, resize_image
from lib.imaging.volumes import Stack, align

SIDE = 12  # of a descriptor, pixels a side: pose and large organs, not their details, which differ between patients


@dataclass(frozen=True)
class MatchSettings:
    """Numbers of the matching.

    Attributes:
        slices_per_query: template slices whose answers are averaged for a query slice, an odd number.
        spread: distance between those slices in pixels of a slice (the shorter side), at least one slice.
        stretch_cost: price of one step by which one anatomy is longer than the other; similarities lie in -1 to 1.
        position_weight: price of lying at different relative places in the two stacks, 0 to 1 apart, squared.
    """

    slices_per_query: int = 3
    spread: float = 1.0
    stretch_cost: float = 0.3
    position_weight: float = 3.0


@dataclass(frozen=True, eq=False)
class Match:
    """Correspondence of one query stack to one template stack.

    Attributes:
        path: (Q,) the template slice at each query slice's place.
        slices: T, of the template.
        step: template slices from one that is compared to the next.
    """

    path: np.ndarray
    slices: int
    step: int

    def around(self, query: int, count: int) -> list[int]:
        """The template slice at a query slice's place and those on either side, `count` of them, fewer at an end."""
        reach = count // 2
        places = (int(self.path[query]) + self.step * offset for offset in range(-reach, reach + 1))
        return [place for place in places if 0 <= place < self.slices]


def match(query: Stack, template: Stack, settings: MatchSettings) -> Match:
    """Match two stacks that are cut in the same plane."""
    return match_descriptors(query, template, descriptors(query), descriptors(template), settings)


def match_descriptors(
    query: Stack, template: Stack, of_query: np.ndarray, of_template: np.ndarray, settings: MatchSettings
) -> Match:
    """Match two stacks by their slices' descriptors, (Q, D) and (T, D)."""
    similarity = _similarity(of_query, of_template)
    places = [np.arange(len(stack)) / max(1, len(stack) - 1) for stack in (query, template)]
    apart = np.subtract.outer(*places) ** 2
    sides = template.proportions
    pixel = min(side for axis, side in enumerate(sides) if axis != template.axis)
    step = max(1, round(settings.spread * pixel / sides[template.axis]))
    gain = similarity - settings.position_weight * apart
    path = align(gain, (query.thickness, template.thickness), settings.stretch_cost)
    return Match(path, len(template), step)


def descriptors(stack: Stack) -> np.ndarray:
    """(N, D) float32: each slice normalised as for the network, at `SIDE` x `SIDE` pixels."""
    return descriptors_of(stack, range(len(stack)))


def descriptors_of(stack: Stack, indices: Sequence[int]) -> np.ndarray:
    """(n, D) float32: the same of some slices."""
    slices = np.stack([normalise(resize_image(stack.slice(index), 4 * SIDE)) for index in indices])
    return slices.reshape(len(indices), SIDE, 4, SIDE, 4).mean(axis=(2, 4)).reshape(len(indices), -1)


def _similarity(query: np.ndarray, template: np.ndarray) -> np.ndarray:
    """(Q, T) cosines after removing what all slices have in common, which would hide what tells them apart."""
    common = np.concatenate([query, template]).mean(axis=0)
    query, template = query - common, template - common
    lengths = np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(template, axis=1))
    return (query @ template.T) / np.maximum(lengths, 1e-8)
