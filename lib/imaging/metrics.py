"""The Dice of masks, and with the surface distance (by MONAI) how well one fits the truth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """How well a mask fits.

    Attributes:
        dice: 0 to 100.
        surface: average symmetric surface distance in mm, or in pixels where the file knows no mm; an empty mask is
            as far away as the image is large (its diagonal), so that finding nothing is never better than finding it
            in the wrong place.
        surface_percent: the same in per cent of the image's diagonal, which can be averaged over data sets.
    """

    dice: float
    surface: float
    surface_percent: float


def score(mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> Score:
    """Compare two bool arrays of one shape, 2-D or 3-D; `truth` must not be empty. Spacing in mm along its axes."""
    if mask.shape != truth.shape:
        raise ValueError(f"mask and truth must have one shape, got {mask.shape} and {truth.shape}")
    if not truth.any():
        raise ValueError("a truth to score against must not be empty: leave the query out")
    diagonal = float(np.linalg.norm(np.array(truth.shape) * np.array(spacing)))
    surface = _surface_distance(mask, truth, spacing) if mask.any() else diagonal
    return Score(100 * dice(mask, truth), surface, 100 * surface / diagonal)


def dice(one: np.ndarray, other: np.ndarray, empty: float = 1.0) -> float:
    """Dice of two bool arrays of one shape, 0 to 1; `empty` where both are empty: they agree."""
    return pooled_dice([one], [other], empty)


def label_map_dice(one: np.ndarray, other: np.ndarray, known: np.ndarray | None = None) -> float:
    """Mean Dice of the structures that are in either of two label maps of one shape; 1 where there is none.

    Args:
        known: (K,) bool, whether structure 1, 2, ... K counts; None for all.
    """
    numbers = [int(n) for n in np.union1d(one, other) if n and (known is None or known[int(n) - 1])]
    return float(np.mean([dice(one == number, other == number) for number in numbers])) if numbers else 1.0


def batch_dice(ones: Tensor, others: Tensor) -> np.ndarray:
    """(B,) Dice of pairs of bool masks (B, ...) on their device, 0 to 1; two empty masks agree."""
    overlap = (ones & others).flatten(1).sum(dim=1).float()
    total = ones.flatten(1).sum(dim=1) + others.flatten(1).sum(dim=1)
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0).cpu().numpy()


def pooled_dice(ones: Sequence[np.ndarray], others: Sequence[np.ndarray], empty: float = 0.0) -> float:
    """Dice, 0 to 1, of pairs of bool arrays taken together, as if they were one; `empty` where all are empty."""
    overlap = sum(int(np.count_nonzero(one & other)) for one, other in zip(ones, others, strict=True))
    total = sum(int(np.count_nonzero(own)) for own in (*ones, *others))
    return 2 * overlap / total if total else empty


def _surface_distance(mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    from monai.metrics import compute_average_surface_distance  # MONAI takes seconds to import

    box = _around(mask | truth)  # the same surfaces in a smaller array
    with warnings.catch_warnings():
        # MONAI passes its own function an argument that it has deprecated itself
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")
        distance = compute_average_surface_distance(
            _batched(mask[box]), _batched(truth[box]), include_background=True, symmetric=True, spacing=tuple(spacing)
        )
    return float(distance)


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices of the mask's bounding box."""
    return tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))


def _batched(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]
