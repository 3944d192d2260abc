"""Templates vote on query slices: each of several template slices gives its answer; their probabilities are averaged.

A template slice that does not show the structure gives no answer, for the network was not trained on empty prompts; it
votes against the structure all the same, and so the votes around a structure's end decide where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.imaging.prompts import Prompt
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.inference.matching import Match
from lib.inference.probabilities import to_logit, to_probability
from lib.inference.slice_network import SliceNetwork, TaskQuestion, TemplateSlice
from lib.networks.contract import Features

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
        prompts: slice index to its 2-D prompt, of those that a prompt shows better than the answer to it as a mask.
    """

    stack: Stack
    features: Mapping[int, Features]
    match: Match
    shown: np.ndarray
    masks: np.ndarray
    prompts: Mapping[int, Prompt] = field(default_factory=dict)

    def slice(self, index: int) -> TemplateSlice:
        """One of those that show the structure."""
        return TemplateSlice(self.stack, index, self.features[index], self.masks[index], self.prompts.get(index))


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
        pairs = pixels = 0.0
        for query, cast in self.cast.items():
            if cast[structure] > 1:
                yes = self.yes[query][structure].astype(np.float32)
                pairs += float((yes * (yes - 1)).sum()) / (cast[structure] - 1)
                pixels += float(yes.sum())
        return pairs / pixels if pixels else None


@dataclass(frozen=True)
class _Vote:
    """One answer: of a template slice, or of several that the network reads together."""

    query: int
    structure: int
    slices: Sequence[tuple[Guide, int]]


def vote(
    network: SliceNetwork,
    queries: Mapping[int, Features],
    guides: Sequence[Sequence[Guide]],
    count: int,
    control: Control = Control(),
    tally: Tally | None = None,
) -> dict[int, np.ndarray]:
    """Logits of the mean probability that the templates give, for each query slice.

    Args:
        queries: slice index to features.
        guides: of each structure, one for each template that shows it.
        count: template slices compared with a query slice, of each template.
        control: follows the batches and may end the work.
        tally: takes down how the votes were cast.

    Returns:
        Query slice to logits (structures, S, S), ABSENT_LOGIT where no template slice around it shows the structure.
        An answer counts as much as the template slices that gave it together.
    """
    size = network.size
    votes: list[_Vote] = []
    weights = np.zeros((len(guides), 1 + max(queries, default=0)))
    cast = np.zeros_like(weights)
    sums = {query: np.zeros((len(guides), size, size), np.float32) for query in queries}
    for query in queries:
        for structure, candidates in enumerate(guides):
            shown = shown_around(candidates, query, count)
            compared = sum(len(guide.match.around(query, count)) for guide in candidates)
            absent = compared - len(shown)
            sums[query][structure] += ABSENT * absent
            weights[structure, query] += compared
            cast[structure, query] += absent
            groups = [shown[n : n + network.most_templates] for n in range(0, len(shown), network.most_templates)]
            votes.extend(_Vote(query, structure, group) for group in groups)
            cast[structure, query] += len(groups)
    if tally is not None:
        tally.cast = {query: cast[:, query] for query in queries}
        tally.yes = {query: np.zeros((len(guides), size, size), np.uint8) for query in queries}
    for done, (one, answer) in enumerate(zip(votes, network.answers(_questions(votes, queries)), strict=True)):
        if done % network.batch_size == 0:
            control.advance(done / len(votes))
        sums[one.query][one.structure] += len(one.slices) * to_probability(answer)
        if tally is not None:
            tally.yes[one.query][one.structure] += answer > 0
    return {query: to_logit(sums[query] / weights[:, query, None, None]).astype(np.float32) for query in queries}


def shown_around(guides: Sequence[Guide], query: int, count: int) -> list[tuple[Guide, int]]:
    """The template slices that are compared with a query slice and show the structure, each with its template."""
    around = [(guide, index) for guide in guides for index in guide.match.around(query, count)]
    return [(guide, index) for guide, index in around if guide.shown[index]]


def _questions(votes: Sequence[_Vote], queries: Mapping[int, Features]) -> Iterator[TaskQuestion]:
    slices: dict[tuple[int, int], TemplateSlice] = {}  # one object for each: what names a mask is computed once
    for one in votes:
        for guide, index in one.slices:
            slices.setdefault((id(guide), index), guide.slice(index))
        yield TaskQuestion(queries[one.query], [slices[id(guide), index] for guide, index in one.slices])
