"""A network on a whole prepared volume, window by window and slab by slab: what is held does not grow with its depth.

Windows run along the depth first of all. What lies before the next row of windows is final: it is handed on, becomes
class numbers on the study's own grid, and is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor

from lib.inference.control import Control
from lib.inference.slice_network import computes_in_bfloat16
from lib.networks.answers import finite
from lib.networks.uniseg import UniSeg

OVERLAP = 0.5
LEAST_WEIGHT = 1e-3  # of a window's corner, against 1 in its middle


@torch.inference_mode()
def window_slabs(
    network: UniSeg,
    image: Tensor,
    classes: Mapping[int, int],
    window: tuple[int, int, int],
    control: Control = Control(),
) -> Iterator[list[Tensor]]:
    """What a network says of a prepared image, in slabs from the first slice to the last.

    Args:
        network: in evaluation mode, on its device.
        image: (C, d, h, w), normalised.
        classes: index of each task to its classes, background included.
        window: voxels along each axis, multiples of the network's strides.
        control: follows the work and may end it.

    Yields:
        For each task logits (classes, n, h, w), float32, on the processor: Gaussian means over all windows.

    Raises:
        Cancelled: the control stopped it.
    """
    size = image.shape[1:]
    before = [max(0, side - own) // 2 for own, side in zip(size, window, strict=True)]
    after = [max(0, side - own - low) for own, side, low in zip(size, window, before, strict=True)]
    sides = [low for axis in (2, 1, 0) for low in (before[axis], after[axis])]
    padded = F.pad(image, sides) if any(sides) else image
    whole = padded.shape[1:]
    steps = [max(1, int(side * (1 - OVERLAP))) for side in window]
    places = dense_patch_slices(whole, window, steps)
    starts = sorted({place[0].start for place in places})
    weight = compute_importance_map(window, mode="gaussian", sigma_scale=0.125, dtype=torch.float32)
    weight = weight.clamp(min=max(float(weight[weight > 0].min()), LEAST_WEIGHT))
    sums = [torch.zeros(count, window[0], *whole[1:]) for count in classes.values()]
    weights = torch.zeros(window[0], *whole[1:])
    inner = [slice(low, low + own) for low, own in zip(before[1:], size[1:], strict=True)]
    done = 0
    for start, following in zip(starts, [*starts[1:], whole[0]], strict=True):
        for place in (place for place in places if place[0].start == start):
            control.advance(done / len(places))
            slices, rows, columns = place
            for total, logits in zip(sums, _answers(network, padded[:, slices, rows, columns], classes), strict=True):
                total[:, :, rows, columns] += weight * logits
            weights[:, rows, columns] += weight
            done += 1
        low, high = max(0, before[0] - start), min(following - start, before[0] + size[0] - start)
        if low < high:
            rows, columns = inner
            yield [total[:, low:high, rows, columns] / weights[low:high, rows, columns] for total in sums]
        for held in (*sums, weights[None]):
            _move(held, following - start)
    control.advance(1.0)


def window_logits(
    network: UniSeg,
    image: Tensor,
    classes: Mapping[int, int],
    window: tuple[int, int, int],
) -> list[Tensor]:
    """`window_slabs` at once: for each task logits (classes, d, h, w)."""
    slabs = list(window_slabs(network, image, classes, window))
    return [torch.cat(own, dim=1) for own in zip(*slabs, strict=True)]


def smaller(patch: tuple[int, int, int], stride: tuple[int, int, int]) -> tuple[int, int, int]:
    """A window of half a patch's height and width, in whole strides."""
    depth, height, width = (
        max(own, side // 2 // own * own) if axis else side
        for axis, (side, own) in enumerate(zip(patch, stride, strict=True))
    )
    return depth, height, width


class ClassMap:
    """The most probable class on another grid, from slabs of logits that come one after the other.

    Probabilities are resampled as `lib.segmenters.uniseg.study.resized` does it, slice by slice.

    Args:
        depth: slices of the logits.
        shape: (D, H, W) of the result.
    """

    def __init__(self, depth: int, shape: Sequence[int]) -> None:
        self.numbers = np.zeros(tuple(shape), np.uint8)
        places = (np.arange(shape[0]) + 0.5) * depth / shape[0] - 0.5
        self._places = places.clip(0, depth - 1)  # of each slice of the result, in slices of the logits
        self._held: Tensor | None = None  # probabilities (K, n, h, w) from the slice `_first` on
        self._first = self._next = 0

    def add(self, logits: Tensor) -> None:
        """Take in the next slab (K, n, h, w)."""
        finite(logits.numpy())
        probabilities = logits.softmax(dim=0)
        self._held = probabilities if self._held is None else torch.cat([self._held, probabilities], dim=1)
        last = self._first + self._held.shape[1] - 1
        while self._next < len(self._places) and self._places[self._next] <= last:
            self.numbers[self._next] = self._slice(self._held, self._places[self._next] - self._first)
            self._next += 1
        # the slices that the next ones of the result may still lie between
        self._held, self._first = self._held[:, -1:].clone(), last

    def _slice(self, held: Tensor, place: float) -> np.ndarray:
        low = int(place)
        part = place - low
        own = held[:, low] if part == 0 else torch.lerp(held[:, low], held[:, low + 1], part)
        if own.shape[1:] != self.numbers.shape[1:]:
            own = F.interpolate(own[None], size=self.numbers.shape[1:], mode="bilinear", align_corners=False)[0]
        return own.max(dim=0).indices.numpy()  # faster than `argmax` on CPUs


def _answers(network: UniSeg, window: Tensor, classes: Mapping[int, int]) -> list[Tensor]:
    """Logits (classes, D, H, W) of each task for one window (C, D, H, W), float32, on the processor."""
    device = next(network.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
        outputs = network.decode_tasks(network.encode(window[None].to(device)), list(classes))
    return [logits[0, :count].float().cpu() for logits, count in zip(outputs, classes.values(), strict=True)]


def _move(held: Tensor, slices: int) -> None:
    """Forget the first slices (axis 1), and make room for as many."""
    kept = held.shape[1] - slices
    if kept > 0:
        held[:, :kept] = held[:, slices:].clone()
    held[:, max(0, kept) :] = 0
