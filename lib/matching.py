"""Which slices of a template each slice of a query is compared with.

Two stacks of the same anatomy are first aligned as wholes (`lib.volumes.align`), so that a slice beyond the organ meets
the template's slices beyond the organ and not the most similar one inside it; then each query slice takes the most
similar template slices near its place in the alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from lib.volumes import Stack, align


class Method(Enum):
    """How slices find each other."""

    ALIGN = "align"  # by similarity, monotonically through both stacks
    SIMILARITY = "similarity"  # each slice on its own
    POSITION = "position"  # by relative place in the stack


@dataclass(frozen=True)
class MatchSettings:
    """Numbers of the matching.

    Attributes:
        method: see `Method`.
        slices_per_query: template slices whose answers are averaged for a query slice.
        window_mm: how far from its place in the alignment a query slice may look, at least one slice either way.
        stretch_cost: price of one step by which one anatomy is longer than the other; similarities lie in -1 to 1.
        position_weight: price of lying at different relative places in the two stacks, 0 to 1 apart, squared.
    """

    method: Method = Method.ALIGN
    slices_per_query: int = 3
    window_mm: float = 3.0
    stretch_cost: float = 0.1
    position_weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Match:
    """Correspondence of one query stack to one template stack.

    Attributes:
        similarity: (Q, T) of slice looks, -1 to 1.
        path: (Q,) the template slice at each query slice's place.
        window: template slices either way of the path that may be compared.
    """

    similarity: np.ndarray
    path: np.ndarray
    window: int

    def nearby(self, query: int, allowed: np.ndarray, count: int) -> list[int]:
        """At most `count` template slices for a query slice, most similar first.

        Args:
            allowed: (T,) bool, template slices that may be chosen.
        """
        low, high = self.path[query] - self.window, self.path[query] + self.window
        near = [t for t in range(max(0, low), min(len(allowed), high + 1)) if allowed[t]]
        return sorted(near, key=lambda t: -float(self.similarity[query, t]))[:count]

    @property
    def score(self) -> float:
        """Mean similarity along the path: how well the template's slices fit this query."""
        return float(self.similarity[np.arange(len(self.path)), self.path].mean())


def match(
    query: Stack, template: Stack, query_looks: np.ndarray, template_looks: np.ndarray, settings: MatchSettings
) -> Match:
    """Match two stacks cut in the same plane by their slices' descriptors, (Q, D) and (T, D)."""
    similarity = _similarity(query_looks, template_looks)
    places = [np.arange(len(stack)) / max(1, len(stack) - 1) for stack in (query, template)]
    apart = np.subtract.outer(*places) ** 2
    window = max(1, round(settings.window_mm / template.thickness))
    if settings.method is Method.ALIGN:
        gain = similarity - settings.position_weight * apart
        path = align(gain, (query.thickness, template.thickness), settings.stretch_cost)
    elif settings.method is Method.SIMILARITY:
        path, window = (similarity - settings.position_weight * apart).argmax(axis=1), len(template)
    else:
        path = apart.argmin(axis=1)
    return Match(similarity, path, window)


def _similarity(query: np.ndarray, template: np.ndarray) -> np.ndarray:
    """(Q, T) cosines after removing what all slices have in common, which would hide what tells them apart."""
    common = np.concatenate([query, template]).mean(axis=0)
    query, template = query - common, template - common
    lengths = np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(template, axis=1))
    return (query @ template.T) / np.maximum(lengths, 1e-8)
