"""Means and 95 % bootstrap intervals over templates, queries and data sets. A data set counts once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """Low and high end of the middle 95 % of bootstrap replicates."""
    low, high = np.percentile(replicates, (2.5, 97.5))
    return float(low), float(high)


def resampled_means(matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) means of (templates, queries), both drawn with replacement; NaN is a pair that was not asked."""
    rows = rng.integers(matrix.shape[0], size=(RESAMPLES, matrix.shape[0], 1))
    columns = rng.integers(matrix.shape[1], size=(RESAMPLES, 1, matrix.shape[1]))
    sample = matrix[rows, columns].reshape(RESAMPLES, -1)
    counted = np.isfinite(sample)
    sums = np.where(counted, sample, 0).sum(axis=1)
    return np.where(counted.any(axis=1), sums / np.maximum(1, counted.sum(axis=1)), np.nanmean(matrix))


def mean_over_datasets(datasets: Sequence[str], values: Sequence[float]) -> float:
    """Mean over data sets of the means within them."""
    return float(np.mean(list(_by_dataset(datasets, values).values())))


def resampled_over_datasets(
    datasets: Sequence[str], replicates: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """(RESAMPLES,) means over data sets drawn with replacement, each a replicate of its own rows' means.

    Args:
        replicates: for each row (RESAMPLES,) of `resampled_means`, or constants where only data sets are resampled.
    """
    means = np.array(list(_by_dataset(datasets, replicates).values()))  # (data sets, RESAMPLES)
    sample = rng.integers(len(means), size=means.shape)
    which = rng.integers(RESAMPLES, size=means.shape)  # a data set drawn twice is two different replicates
    return np.asarray(means[sample, which].mean(axis=0))


def _by_dataset(datasets: Sequence[str], values: Sequence) -> dict[str, np.ndarray]:
    grouped = defaultdict(list)
    for dataset, value in zip(datasets, values, strict=True):
        grouped[dataset].append(value)
    return {dataset: np.mean(scores, axis=0) for dataset, scores in grouped.items()}
