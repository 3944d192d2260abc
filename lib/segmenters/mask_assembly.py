"""From logits to a mask: planes joined, the threshold, and structures that compete for voxels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from lib.imaging.prompts import Prompt
from lib.imaging.transforms import resize_logits
from lib.imaging.volumes import Stack, remove_small_components, smooth
from lib.inference.interaction import Answer
from lib.inference.voting import ABSENT_LOGIT

CERTAIN = 1e3  # logit of what was painted or answered before: nothing outvotes it


def resized(logits: np.ndarray, stack: Stack) -> np.ndarray:
    """(N, S, S) to (N, H, W) of the stack's slices."""
    return resize_logits(torch.from_numpy(logits)[:, None], stack.slice(0).shape)[:, 0].numpy()


def joined(main: Stack, planes: Sequence[tuple[Stack, np.ndarray]], smoothing: float) -> np.ndarray:
    """Mean of one structure's logits from each plane, smoothed.

    Args:
        main: the stack of the result.
        planes: each plane's stack with its logits (N, S, S).
        smoothing: sigma from slice to slice, in average voxel sides; half of it in every direction where there are
            several planes.

    Returns:
        (N, H, W) on the slices of the main stack.
    """
    total = np.zeros(main.array.shape, np.float32)
    for stack, logits in planes:
        total += np.moveaxis(resized(logits, stack), 0, stack.axis) / len(planes)
    spacing = [main.thickness, *(side for axis, side in enumerate(main.spacing) if axis != main.axis)]
    across, within = (smoothing, 0.0) if len(planes) == 1 else (smoothing / 2, smoothing / 2)
    return smooth(np.moveaxis(total, main.axis, 0), spacing, (across, within, within))


def prompted_logits(stack: Stack, answer: Answer, prompt: Prompt) -> np.ndarray:
    """Logits (N, H, W) of an interactive answer, absent on slices without one and outside a box."""
    shape = (len(stack), *stack.slice(0).shape)
    logits = np.full(shape, ABSENT_LOGIT, np.float32)
    for index, own in answer.logits.items():
        logits[index] = resized(own[None], stack)[0]
    if prompt.box is not None:
        inside = np.zeros(stack.array.shape, bool)
        inside[tuple(slice(*prompt.box[2 * axis : 2 * axis + 2]) for axis in range(3))] = True
        boxed = np.moveaxis(inside, stack.axis, 0)
        limited = boxed.any(axis=(1, 2), keepdims=True) | (boxed.any(axis=(1, 2)).sum() > 1)
        logits[limited & ~boxed] = ABSENT_LOGIT
    for index, mask in answer.trusted.items():
        logits[index] = np.where(mask, CERTAIN, -CERTAIN)
    return logits


def compete(
    stack: Stack, volumes: Iterable[tuple[int, np.ndarray]], least_islands: Mapping[int, float] | None = None
) -> np.ndarray:
    """Label indices (N, H, W): each voxel to the structure with the largest logit above the background's 0.

    Args:
        volumes: label index and logits (N, H, W) of each structure.
        least_islands: see `remove_small_components`, for the label indices that lose their islands.

    Returns:
        uint8, or uint16 where an index needs it.
    """
    best = np.zeros((len(stack), *stack.slice(0).shape), np.float32)
    slices = np.zeros(best.shape, np.uint16)
    highest = 0
    for index, logits in volumes:
        wins = logits > best
        slices[wins], best[wins] = index, logits[wins]
        highest = max(highest, index)
    for index, least in (least_islands or {}).items():
        mask = slices == index
        slices[mask & ~remove_small_components(mask, least)] = 0
    return slices.astype(np.uint8) if highest <= np.iinfo(np.uint8).max else slices
