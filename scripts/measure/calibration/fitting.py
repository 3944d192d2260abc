"""Fits `lib.quality.estimator.Estimator` to masks of known truth, and asks it about data sets it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.quality.calibration import COVERED
from lib.quality.estimator import FARTHEST, Estimator
from scripts.measure.calibration.lists import Record

HIDDEN = 4
MEMBERS = 8
STEPS = 400
WEIGHT_DECAY = 0.3
FOLDS = 6
NEAREST = 0.15  # share of the masks, those with the most similar estimates, whose errors give the bounds at a place
KEPT_SCORES = 101


def fit(records: Sequence[Record], features: Sequence[str], about: dict[str, Any], seed: int = 0) -> Estimator:
    """An estimator with its bounds.

    Args:
        records: masks of several data sets; those where nothing was found are left out.
        features: names to weigh.
        about: what to keep in the file beside how well it did.
    """
    records = [record for record in records if "size" in record.features]
    estimates, truths = cross_validated(records, features, seed), np.array([record.dice for record in records])
    steps, low, high = _bounds(estimates, truths, _weights(records))
    estimator = _trained(records, features, MEMBERS, seed)
    bare = Estimator(estimator.features, estimator.mean, estimator.scale, estimator.members, steps, low, high)
    outside = [_score(bare, float(q), float(d)) for q, d in zip(estimates, truths, strict=True)]
    scores = np.quantile(outside, np.linspace(0, 1, KEPT_SCORES)).round(4).tolist()
    about = {
        **about,
        "masks": len(records),
        "lists": sorted({record.list for record in records}),
        "correlation": round(float(np.corrcoef(estimates, truths)[0, 1]), 3),
        "mean_absolute_error": round(float(np.abs(estimates - truths).mean()), 3),
    }
    return Estimator(
        estimator.features, estimator.mean, estimator.scale, estimator.members, steps, low, high, scores, about
    )


def cross_validated(records: Sequence[Record], features: Sequence[str], seed: int = 0) -> np.ndarray:
    """(n,) estimates, each by networks that saw no mask of the same data set."""
    lists = sorted({record.list for record in records})
    folds = min(FOLDS, len(lists))
    place = {name: number % folds for number, name in enumerate(np.random.default_rng(seed).permutation(lists))}
    estimates = np.zeros(len(records))
    for fold in range(folds):
        seen = [record for record in records if place[record.list] != fold]
        model = _trained(seen or records, features, 1, seed + fold)
        for number, record in enumerate(records):
            if place[record.list] == fold:
                estimates[number] = model.estimate(record.features)
    return estimates


def _weights(records: Sequence[Record]) -> np.ndarray:
    """(n,) with mean 1: a data set counts by the root of its size, so that a large one does not drown the others."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.list] = counts.get(record.list, 0) + 1
    weights = np.array([counts[record.list] ** -0.5 for record in records])
    return weights / weights.mean()


def _trained(records: Sequence[Record], features: Sequence[str], members: int, seed: int) -> Estimator:
    given = np.array([[record.features.get(name, np.nan) for name in features] for record in records], float)
    known = np.maximum(np.isfinite(given).sum(axis=0), 1)  # a feature that nobody measured, or that never varies
    mean = np.nansum(given, axis=0) / known
    scale = np.sqrt(np.nansum((given - mean) ** 2, axis=0) / known)
    scale[scale < 1e-6] = 1.0
    inputs = torch.from_numpy(np.clip(np.nan_to_num((given - mean) / scale), -FARTHEST, FARTHEST)).float()
    truth = torch.tensor([record.dice for record in records])[:, None]
    weights = torch.from_numpy(_weights(records)).float()[:, None]
    networks = [_network(inputs, truth, weights, seed * 100 + member) for member in range(members)]
    return Estimator(list(features), mean.round(5).tolist(), scale.round(5).tolist(), networks)


def _network(inputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, seed: int) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(inputs.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=WEIGHT_DECAY)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        missing = torch.rand_like(inputs) < 0.1  # no feature may be leant on alone: some cannot be measured
        answer = torch.sigmoid(network(torch.where(missing, 0.0, inputs)))
        loss = (weights * nn.functional.smooth_l1_loss(answer, truth, beta=0.1, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [
        {"weights": np.round(layer.weight.tolist(), 5).tolist(), "bias": np.round(layer.bias.tolist(), 5).tolist()}
        for layer in layers
    ]


def _bounds(
    estimates: np.ndarray, truths: np.ndarray, weights: np.ndarray
) -> tuple[list[float], list[float], list[float]]:
    """Estimates, and the bounds of the truth at each of them."""
    steps = np.linspace(0, 1, 21)
    lines = []
    for share in ((1 - COVERED) / 2, (1 + COVERED) / 2):
        line = []
        for step in steps:
            near = np.argsort(np.abs(estimates - step))[: max(20, round(NEAREST * len(estimates)))]
            errors = (truths - estimates)[near]
            order = np.argsort(errors)
            reached = np.cumsum(weights[near][order]) / weights[near].sum()
            line.append(step + errors[order][min(int(np.searchsorted(reached, share)), len(near) - 1)])
        lines.append(np.clip(np.convolve(np.pad(line, 1, mode="edge"), np.ones(3) / 3, mode="valid"), 0, 1))
    low, high = np.minimum(lines[0], steps), np.maximum(lines[1], steps)
    return steps.round(3).tolist(), low.round(4).tolist(), high.round(4).tolist()


def _score(estimator: Estimator, estimate: float, truth: float) -> float:
    low, high = estimator.bounds(estimate)
    return max(low - truth, truth - high)
