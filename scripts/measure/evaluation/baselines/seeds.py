"""Clicks as an annotator's brush leaves them, for methods that start from marked voxels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from skimage.transform import resize

from lib.imaging.prompts import Prompt
from lib.imaging.transforms import normalise
from scripts.measure.evaluation.cases import Case

BACKGROUND, FOREGROUND = 1, 2
BRUSH = 0.015  # radius of a dab in parts of the image's longest side
IMAGE_SIDE, VOLUME_SIDE = 128, 64  # longest side of what a method is given: 128 is the network's own resolution


@lru_cache(maxsize=32)  # one image is clicked on many times
def shrunk(case: Case) -> np.ndarray:
    """The image as float32 in 0..1, at most `IMAGE_SIDE` (`VOLUME_SIDE` for volumes) along its longest axis."""
    array, side = case.image.array, IMAGE_SIDE if case.image.array.ndim == 2 else VOLUME_SIDE
    factor = min(1.0, side / max(array.shape))
    shape = [max(1, round(n * factor)) for n in array.shape]
    small = resize(normalise(array), shape, order=1, mode="edge", anti_aliasing=factor < 1)
    small = ((small - small.min()) / max(float(np.ptp(small)), 1e-6)).astype(np.float32)
    small.setflags(write=False)
    return small


def dabs(prompt: Prompt, full: Sequence[int], small: Sequence[int]) -> np.ndarray:
    """uint8 array of the `small` shape: BACKGROUND and FOREGROUND dabs where clicks on the `full` grid are, else 0.

    The image's border counts as background too, because these methods need some before the first background click, and
    do better with it after. Where dabs meet, foreground wins, but a click's own voxel always has its kind.
    """
    seeds = np.zeros(small, np.uint8)
    for axis in range(len(small)):
        if small[axis] > 2:
            np.moveaxis(seeds, axis, 0)[[0, -1]] = BACKGROUND
    scale = np.array(small) / np.array(full)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in small), indexing="ij"))
    kinds = ((BACKGROUND, prompt.background), (FOREGROUND, prompt.foreground))
    points = [(kind, ((np.array(point) + 0.5) * scale).astype(int)) for kind, clicked in kinds for point in clicked]
    for kind, point in points:
        apart = (grid - point.reshape(-1, *[1] * len(small))) ** 2
        seeds[apart.sum(axis=0) <= (BRUSH * max(small)) ** 2] = kind
    for kind, point in points:
        seeds[tuple(point)] = kind
    return seeds


def enlarged(inside: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Probability on the small grid to a bool mask in the image's shape."""
    return resize(inside.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=False) >= 0.5
