"""How good is a mask that nobody has checked? Reverse Dice, not yet calibrated.

The roles are swapped: the query with its predicted mask becomes the template, and the template, whose true mask is
known, becomes the query. A mask that leads back to the truth is probably right; one that missed leads elsewhere. The
number is a Dice between 0 and 1 that rises with the real one, but it is no estimate of it until it has been calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.networks import Features
from lib.slice_network import Question, SliceNetwork, mask_maps
from lib.transforms import resize_mask


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
    """At most `count` of the items, evenly over the sequence, ends included."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def reverse_dice(network: SliceNetwork, cases: Sequence[ReverseCase]) -> float:
    """Dice, 0 to 1, of the templates' true masks and the answers that the predicted masks lead to, over all cases.

    A case without a prediction is not asked: nothing leads back to nothing. No case at all gives 0.
    """
    size = network.size
    asked = [case for case in cases if case.predicted.any()]
    questions = [Question(case.template, case.query, mask_maps(case.predicted, size)) for case in asked]
    answers = dict(zip(map(id, asked), network.answers(questions), strict=True))
    overlap = total = 0.0
    for case in cases:
        truth = resize_mask(case.truth, size) >= 0.5
        answer = answers[id(case)] > 0 if id(case) in answers else np.zeros_like(truth)
        overlap += float((truth & answer).sum())
        total += float(truth.sum() + answer.sum())
    return 2 * overlap / total if total else 0.0
