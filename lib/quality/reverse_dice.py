"""Reverse Dice: does a mask that nobody has checked lead back to one that is known?

The roles are swapped: the query with its predicted mask becomes the template, and the template, whose true mask is
known, becomes the query. A mask that leads back to the truth is probably right; one that missed leads elsewhere. The
number is a Dice between 0 and 1 that rises with the real one; what it says of it is `lib.quality.estimate`'s to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.networks.contract import Features


@dataclass(frozen=True, eq=False)
class ReverseCase:
    """One query slice and the template slice it was compared with.

    Attributes:
        query, template: their features.
        predicted: bool (H, W) mask that the query was given.
        truth: bool (H', W') mask of the template.
    """

    query: Features
    template: Features
    predicted: np.ndarray
    truth: np.ndarray


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, each from the middle of its share of the sequence.

    Never the ends of a long one: where a structure begins, a slice shows a few of its voxels, and says little.
    """
    if len(items) <= count:
        return list(items)
    return [items[int((place + 0.5) * len(items) / count)] for place in range(count)]


def reverse_answers(network: SliceNetwork, cases: Sequence[ReverseCase]) -> list[np.ndarray]:
    """Bool (S, S) that each case's predicted mask leads to; nothing leads to nothing, and is not asked."""
    shown = [case for case in cases if case.predicted.any()]
    questions = [Question(case.template, case.query, mask_maps(case.predicted, network.size)) for case in shown]
    answers = dict(zip(map(id, shown), network.answers(questions), strict=True))
    nothing = np.zeros((network.size, network.size), bool)
    return [answers[id(case)] > 0 if id(case) in answers else nothing for case in cases]
