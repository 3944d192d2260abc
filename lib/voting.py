"""Templates vote on query slices: each of several template slices gives its answer, and the logits are averaged.

A template slice that does not show the structure is not asked, for the network was not trained on empty prompts; it
votes against the structure all the same, and so the votes around a structure's end decide where it ends. Where an
annotator has said that the structure is on the query slice, only template slices that show it vote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.matching import Match
from lib.networks import Features
from lib.slice_network import Checkpoint, Question, SliceNetwork

ABSENT_LOGIT = -2.0  # what a template slice that does not show the structure says of every pixel: 12 % probability


@dataclass(frozen=True, eq=False)
class Guide:
    """One structure of one template, matched to a query.

    Attributes:
        features: of each template slice.
        match: the query's slices against the template's.
        shown: (T,) bool, the template slices that show the structure.
        maps: prompt maps (2, 5, S, S) of one of those slices.
        truth: its bool (H, W) mask.
    """

    features: Mapping[int, Features]
    match: Match
    shown: np.ndarray
    maps: Callable[[int], np.ndarray]
    truth: Callable[[int], np.ndarray]


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
    said: Mapping[tuple[int, int], np.ndarray] | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[int, np.ndarray]:
    """Average answer of the templates for each query slice.

    Args:
        queries: slice index to features.
        guides: of each structure, one for each template that shows it.
        count: template slices compared with a query slice, of each template.
        said: (query slice, structure) to prompt maps on the query itself.

    Returns:
        Query slice to logits (structures, S, S), ABSENT_LOGIT where no template slice around it shows the structure.
    """
    size, said = network.size, said or {}
    votes: list[_Vote] = []
    weights = np.zeros((len(guides), 1 + max(queries, default=0)))
    logits = {query: np.zeros((len(guides), size, size), np.float32) for query in queries}
    for query in queries:
        for structure, candidates in enumerate(guides):
            for guide in candidates:
                if (query, structure) in said:
                    chosen = guide.match.nearest(query, guide.shown, count)
                else:
                    chosen = guide.match.around(query, count)
                asked = [index for index in chosen if guide.shown[index]]
                votes.extend(_Vote(query, structure, guide, index) for index in asked)
                logits[query][structure] += ABSENT_LOGIT * (len(chosen) - len(asked))
                weights[structure, query] += len(chosen)
    for done, (one, answer) in enumerate(zip(votes, network.answers(_questions(votes, queries, said)), strict=True)):
        if checkpoint and done % network.batch_size == 0:
            checkpoint(done / len(votes))
        logits[one.query][one.structure] += answer
    for query, sums in logits.items():
        sums /= weights[:, query, None, None]
    return logits


def _questions(
    votes: Sequence[_Vote], queries: Mapping[int, Features], said: Mapping[tuple[int, int], np.ndarray]
) -> Iterator[Question]:
    for one in votes:
        yield Question(
            queries[one.query],
            one.guide.features[one.slice],
            one.guide.maps(one.slice),
            said.get((one.query, one.structure)),
        )
