"""Dice of one mask against the truth, and the answer that costs nothing: the template's mask, stretched."""

from collections.abc import Mapping, Sequence

import numpy as np
from skimage.transform import resize

from lib.imaging.metrics import dice


def by_name(label: np.ndarray, names: Mapping[str, int], wanted: Sequence[str]) -> np.ndarray:
    """A label map in which structure `wanted[n]` has the value n + 1, whatever value `names` gives it in `label`."""
    result = np.zeros(label.shape, np.uint16)
    for position, name in enumerate(wanted):
        if name in names:
            result[label == names[name]] = position + 1
    return result


def dice_by_label(mask: np.ndarray, truth: np.ndarray, count: int) -> list[float | None]:
    """Dice (0 to 1) of each label value 1..count; None where neither has it, since then there is nothing to find."""
    return [
        dice(mask == value, truth == value) if (mask == value).any() or (truth == value).any() else None
        for value in range(1, count + 1)
    ]


def mean_dice(scores: Sequence[float | None]) -> float | None:
    """The mean over the labels that count; None if none does."""
    counted = [score for score in scores if score is not None]
    return float(np.mean(counted)) if counted else None


def copy_resized(template_label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The template's label map stretched to another grid, index by index (nearest neighbour, no geometry)."""
    stretched = resize(template_label, shape, order=0, preserve_range=True, anti_aliasing=False)
    return np.asarray(stretched).astype(template_label.dtype)
