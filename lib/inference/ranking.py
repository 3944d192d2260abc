"""Which study to label first, and which next: plain arithmetic on their descriptors.

A study's descriptor is a vector of unit length (`lib.inference.templates.study_descriptor`); the inner product of two
says how alike they are. Every function here takes time that grows with the number of studies, never with its square.
"""

from __future__ import annotations

import numpy as np

ANCHORS = 256  # studies that stand for the whole list where each would have to be compared with every other


def representativeness(descriptors: np.ndarray) -> np.ndarray:
    """How much each study is like all of them.

    Args:
        descriptors: (N, D) vectors of unit length.

    Returns:
        (N,) mean similarity to the N studies; the highest is the medoid.
    """
    # The mean of all inner products with a study is its inner product with the mean: no study is compared with each
    return np.asarray(descriptors @ descriptors.mean(axis=0))


def worth(descriptors: np.ndarray, need: np.ndarray, templates: np.ndarray, seed: int = 0) -> np.ndarray:
    """How much correcting each study promises for the list.

    A study that becomes a template helps the studies that are more like it than like any template so far, by that
    difference, and each of them as much as it needs help. So worth grows with a low predicted quality, with distance
    from the templates and with the number of similar studies.

    Args:
        descriptors: (N, D) vectors of unit length, of the studies without a label.
        need: (N,) 0 for a mask that is surely right to 1 for one that is surely wrong, or is missing.
        templates: (T, D) vectors of the templates; T may be 0.
        seed: chooses the anchors; the same seed gives the same worth.

    Returns:
        (N,) expected gain, in studies' worth of need.
    """
    count = len(descriptors)
    covered = (
        np.clip(descriptors @ templates.T, 0, None).max(axis=1)
        if len(templates)
        else np.zeros(count, descriptors.dtype)
    )
    chosen = np.arange(count)
    if count > ANCHORS:
        chosen = np.random.default_rng(seed).choice(count, ANCHORS, replace=False)
    gain = np.clip(descriptors @ descriptors[chosen].T - covered[chosen], 0, None) @ need[chosen]
    return np.asarray(gain * (count / len(chosen)) + need * (1 - covered))


def mmr_selection(similarity: np.ndarray, between: np.ndarray, count: int, diversity: float) -> list[int]:
    """Choose candidates that are like a query and unlike each other (maximal marginal relevance).

    Args:
        similarity: (T,) of each candidate to the query.
        between: (T, T) of the candidates to each other.
        count: how many to choose, at most.
        diversity: 0 to go by similarity alone, to 1 to go by unlikeness alone after the first.

    Returns:
        Indices in the order of choice; of equals the earlier one.
    """
    chosen: list[int] = []
    left = list(range(len(similarity)))
    redundant = np.full(len(similarity), -np.inf)
    while left and len(chosen) < count:
        lost = diversity * redundant[left] if chosen else 0.0
        best = left[int(np.argmax((1 - diversity if chosen else 1.0) * similarity[left] - lost))]
        chosen.append(best)
        left.remove(best)
        redundant = np.maximum(redundant, between[best])
    return chosen
