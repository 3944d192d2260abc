"""From logits to a mask: planes joined, the threshold, and structures that compete for voxels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from lib.imaging.prompts import Prompt
from lib.imaging.transforms import resize_logits
from lib.imaging.volumes import Stack, remove_small_components, smooth
from lib.inference.interaction import Answer
from lib.inference.probabilities import to_probability
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


def prompted_mask(stack: Stack, structures: Sequence[tuple[int, Answer, Prompt]]) -> np.ndarray:
    """Label map on the image's own grid of interactive answers: slices without one, and what lies outside a box, are
    background.

    What a person confirmed is as it was painted, whichever way those slices lie. The rest is made slice by slice, and
    only where something was answered: what a click costs follows from what it changes, not from the volume.

    Args:
        structures: label index, answer, and the prompt in canonical orientation, of each.

    Returns:
        uint8, or uint16 where an index needs it.
    """
    kind = label_kind(max(index for index, _, _ in structures))
    mask = np.zeros(stack.image.array.shape, kind, order="F" if stack.image.array.flags.f_contiguous else "C")
    slices = stack.slices_of(mask)  # a view: what is written there is written into the mask
    for place in sorted({place for _, answer, _ in structures for place in (*answer.logits, *answer.trusted)}):
        best = np.zeros(slices.shape[1:], np.float32)
        for index, answer, prompt in structures:
            logits = _prompted_logits(stack, answer, prompt, place)
            if logits is not None:
                wins = logits > best
                slices[place][wins], best[wins] = index, logits[wins]
    for index, _, prompt in structures:
        if prompt.confirmed is not None:
            own, confirmed = prompt.mask, prompt.confirmed
            painted = np.moveaxis(np.zeros_like(confirmed) if own is None else own & confirmed, stack.axis, 0)
            slices[np.moveaxis(confirmed, stack.axis, 0) & ~painted & (slices == index)] = 0
            slices[painted] = index
    return mask


def _prompted_logits(stack: Stack, answer: Answer, prompt: Prompt, place: int) -> np.ndarray | None:
    """Logits (H, W) of an interactive answer on one slice; None where it is background everywhere."""
    if (painted := answer.trusted.get(place)) is not None:
        return np.where(painted, np.float32(CERTAIN), np.float32(-CERTAIN)) if painted.any() else None
    own = answer.logits.get(place)
    if own is None or own.max() <= 0:  # nor is anything between its pixels larger
        return None
    logits = resized(own[None], stack)[0]
    if prompt.box is None:
        return logits
    low, high = prompt.box[2 * stack.axis : 2 * stack.axis + 2]
    if not low <= place < high:
        return logits if high - low == 1 else None  # a box on one slice says nothing of the others
    window = tuple(slice(*prompt.box[2 * axis : 2 * axis + 2]) for axis in range(3) if axis != stack.axis)
    boxed = np.full_like(logits, ABSENT_LOGIT)
    boxed[window] = logits[window]
    return boxed


def certainty_of(stack: Stack, answer: Answer) -> np.ndarray:
    """float32 of the image's shape: the probability of an interactive answer on a flat image, in 255ths."""
    if (painted := answer.trusted.get(0)) is not None:
        inside = painted.astype(np.float32)
    elif (logits := answer.logits.get(0)) is not None:
        inside = to_probability(resized(logits[None], stack)[0])
    else:
        inside = np.zeros(stack.slice(0).shape, np.float32)
    return stack.restored((np.rint(255 * inside) / 255).astype(np.float32)[None])


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
    return slices.astype(label_kind(highest), copy=False)


def label_kind(highest: int) -> np.dtype:
    """The type of a label map with indices up to this one."""
    return np.dtype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
