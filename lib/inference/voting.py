"""Templates vote on query slices: each of several template slices gives its answer; their probabilities are averaged.

A template slice that does not show the structure is not asked, for the network was not trained on empty prompts; it
votes against the structure all the same, and so the votes around a structure's end decide where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.imaging.volumes import Stack
from lib.inference.matching import Match
from lib.inference.probabilities import to_logit, to_probability
from lib.inference.slice_network import Checkpoint, Question, SliceNetwork, mask_maps
from lib.networks import Features

ABSENT_LOGIT = -2.0  # what a template slice that does not show the structure says of every pixel
ABSENT = float(to_probability(np.array(ABSENT_LOGIT)))  # 12 % probability


@dataclass(frozen=True, eq=False)
class Guide:
    """One structure of one template, matched to a query.

    Attributes:
        stack: the template's slices.
        features: of those that show the structure.
        match: the query's slices against the template's.
        shown: (T,) bool, the template slices that show the structure.
        masks: bool (T, H, W).
    """

    stack: Stack
    features: Mapping[int, Features]
    match: Match
    shown: np.ndarray
    masks: np.ndarray


@dataclass
class Tally:
    """How the votes on a query were cast.

    Attributes:
        cast: query slice to the number of votes on each structure, (structures,).
        yes: query slice to how many of them found each pixel, uint8 (structures, S, S).
    """

    cast: dict[int, np.ndarray] = field(default_factory=dict)
    yes: dict[int, np.ndarray] = field(default_factory=dict)

    def agreement(self, structure: int) -> float | None:
        """Mean Dice, 0 to 1, of two votes on the same slice; None where no slice has two, or nothing was found."""
        pairs = found = 0.0
        for query, cast in self.cast.items():
            if cast[structure] > 1:
                yes = self.yes[query][structure].astype(np.float32)
                pairs += float((yes * (yes - 1)).sum()) / (cast[structure] - 1)
                found += float(yes.sum())
        return pairs / found if found else None


@dataclass(frozen=True)
class _Vote:
    query: int
    structure: int
    guide: Guide
    slice: int


def vote(
    network: SliceNetwork,
    queries: Mapping[int, Features],
    guides: Sequence[Sequence[Guide]],
    count: int,
    checkpoint: Checkpoint | None = None,
    tally: Tally | None = None,
) -> dict[int, np.ndarray]:
    """Logits of the mean probability that the templates give, for each query slice.

    Args:
        queries: slice index to features.
        guides: of each structure, one for each template that shows it.
        count: template slices compared with a query slice, of each template.
        tally: takes down how the votes were cast.

    Returns:
        Query slice to logits (structures, S, S), ABSENT_LOGIT where no template slice around it shows the structure.
    """
    size = network.size
    votes: list[_Vote] = []
    weights = np.zeros((len(guides), 1 + max(queries, default=0)))
    sums = {query: np.zeros((len(guides), size, size), np.float32) for query in queries}
    for query in queries:
        for structure, candidates in enumerate(guides):
            for guide in candidates:
                chosen = guide.match.around(query, count)
                asked = [index for index in chosen if guide.shown[index]]
                votes.extend(_Vote(query, structure, guide, index) for index in asked)
                sums[query][structure] += ABSENT * (len(chosen) - len(asked))
                weights[structure, query] += len(chosen)
    if tally is not None:
        tally.cast = {query: weights[:, query] for query in queries}
        tally.yes = {query: np.zeros((len(guides), size, size), np.uint8) for query in queries}
    for done, (one, answer) in enumerate(zip(votes, network.answers(_questions(votes, queries, size)), strict=True)):
        if checkpoint and done % network.batch_size == 0:
            checkpoint(done / len(votes))
        sums[one.query][one.structure] += to_probability(answer)
        if tally is not None:
            tally.yes[one.query][one.structure] += answer > 0
    return {query: to_logit(sums[query] / weights[:, query, None, None]).astype(np.float32) for query in queries}


def _questions(votes: Sequence[_Vote], queries: Mapping[int, Features], size: int) -> Iterator[Question]:
    for one in votes:
        maps = mask_maps(one.guide.masks[one.slice], size)
        yield Question(queries[one.query], one.guide.features[one.slice], maps)
