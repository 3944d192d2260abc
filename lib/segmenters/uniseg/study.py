"""A study as UniSeg sees it, and the way back onto the study's own grid.

Files store the same anatomy in any axis order and direction. Here a volume is turned by whole axes so that its axes
(D, H, W) run as a task wants them, cut to what is not zero, brought to the task's spacing and normalised, in this order
and as nnU-Net does it; the answer goes the same way back, and lies on the image's voxels exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor

from lib.imaging.images import Image, ImageError
from lib.imaging.raw import SAME_PLACE, voxels_apart
from lib.segmenters.uniseg.tasks import Channel, Task

PATIENT = axcodes2ornt(("R", "A", "S"))
LARGEST_FACTOR = 10.0  # between an image's spacing and a task's; beyond it a header is wrong, or the task is


@dataclass(frozen=True, eq=False)
class Study:
    """The channels of a volume, on one grid.

    Attributes:
        channels: images of one shape at one place.

    Raises:
        ImageError: none, not of three axes, or not on one grid.
    """

    channels: tuple[Image, ...]

    def __post_init__(self) -> None:
        if not self.channels:
            raise ImageError("a study needs at least one channel, got none")
        for image in self.channels:
            if image.array.ndim != 3 or 1 in image.array.shape:
                raise ImageError(
                    f"UniSeg segments volumes, got the shape {image.array.shape}: use One-Prompt or PromptSeg for "
                    "single slices"
                )
        first = self.channels[0]
        for number, image in enumerate(self.channels[1:], start=2):
            shape = image.array.shape
            if shape != first.array.shape or voxels_apart(first.affine, image.affine, shape) > SAME_PLACE:
                raise ImageError(
                    f"all channels must lie on one grid, and channel {number} of shape {shape} does not "
                    f"lie on that of the first one, {first.array.shape}: register and resample it to that grid"
                )

    @property
    def grid(self) -> Image:
        """An image on the grid of all channels."""
        return self.channels[0]

    @property
    def lowest(self) -> float:
        """The lowest grey value of the first channel."""
        return float(self.channels[0].array.min())

    @cached_property
    def _turn(self) -> np.ndarray:
        """(3, 2) nibabel orientation from the image's axes to right, anterior, superior."""
        return np.asarray(ornt_transform(io_orientation(self.grid.affine), PATIENT)).astype(int)

    @property
    def patient_axes(self) -> np.ndarray:
        """(3,) for each of the image's axes the patient axis that it runs along: 0 right, 1 anterior, 2 superior."""
        return np.asarray(self._turn[:, 0])

    def turned(self, array: np.ndarray, depth: int) -> np.ndarray:
        """An array on the image's grid as a view (D, H, W); see `Task.depth`."""
        return np.asarray(apply_orientation(array, self._turn)).transpose(_axes(depth))

    def turned_back(self, array: np.ndarray, depth: int) -> np.ndarray:
        """An array (D, H, W) as a view on the image's grid; undoes `turned`."""
        upright = array.transpose(np.argsort(_axes(depth)))
        back = ornt_transform(PATIENT, io_orientation(self.grid.affine))
        return np.asarray(apply_orientation(upright, back))

    def spacing(self, depth: int) -> tuple[float, float, float]:
        """mm along (D, H, W)."""
        upright = np.asarray(self.grid.spacing)[np.argsort(self.patient_axes)]
        first, second, third = (float(upright[axis]) for axis in _axes(depth))
        return first, second, third

    @cached_property
    def _box(self) -> tuple[slice, ...]:
        """The smallest box of the image's grid outside which every channel is zero; the whole grid where all is."""
        shown = np.zeros(self.grid.array.shape, bool)
        for image in self.channels:
            shown |= image.array != 0
        return _bounds(shown)

    def box(self, depth: int) -> tuple[slice, slice, slice]:
        """The part of (D, H, W) outside which every channel is zero."""
        marked = np.zeros(self.grid.array.shape, bool)
        marked[self._box] = True
        first, second, third = _bounds(self.turned(marked, depth))
        return first, second, third


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study as a network sees it for some tasks.

    Attributes:
        study: where it comes from.
        depth: see `Task`.
        box: the part of (D, H, W) that was prepared.
        image: float32 (C, d, h, w) of the tasks' spacing, normalised.
    """

    study: Study
    depth: int
    box: tuple[slice, slice, slice]
    image: Tensor

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Voxels of the box on the study's own grid."""
        first, second, third = (part.stop - part.start for part in self.box)
        return first, second, third

    def back(self, label: np.ndarray) -> np.ndarray:
        """A label map (D, H, W) of the box, on the study's grid: 0 outside the box."""
        whole = np.zeros(self.study.turned(self.study.grid.array, self.depth).shape, label.dtype)
        whole[self.box] = label
        return np.ascontiguousarray(self.study.turned_back(whole, self.depth))


def prepare(study: Study, task: Task) -> Prepared:
    """Turn, cut, resample and normalise a study for a task with its number of channels.

    Raises:
        ImageError: its spacing differs from the task's by more than `LARGEST_FACTOR`.
    """
    check_spacing(study.spacing(task.depth), task.spacing, task.name)
    box = study.box(task.depth)
    size = tuple(part.stop - part.start for part in box)
    shape = working_shape(size, study.spacing(task.depth), task.spacing)
    image = torch.empty(len(study.channels), *shape)
    for place, (own, channel) in enumerate(zip(study.channels, task.channels, strict=True)):
        values = np.array(study.turned(own.array, task.depth)[box], np.float32, order="C")
        image[place] = normalised(resized(torch.from_numpy(values), shape), channel)
    return Prepared(study, task.depth, box, image)


def check_spacing(own: Sequence[float], wanted: Sequence[float], name: str) -> None:
    """Raises ImageError where two spacings differ by more than `LARGEST_FACTOR` along an axis."""
    factors = [max(a / b, b / a) for a, b in zip(own, wanted, strict=True)]
    if max(factors) > LARGEST_FACTOR:
        raise ImageError(
            f"{name} works at {_mm(wanted)}, and this image has voxels of {_mm(own)}, {max(factors):.0f} times as much "
            "or as little: is its spacing in mm?"
        )


def working_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along each axis after resampling from one spacing to another."""
    depth, height, width = (
        max(1, round(size * own / new)) for size, own, new in zip(shape, spacing, wanted, strict=True)
    )
    return depth, height, width


def resized(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(D, H, W) float32 to another shape, trilinear between voxel volumes, so that nothing shifts."""
    if tuple(volume.shape) == shape:
        return volume
    return F.interpolate(volume[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]


def normalised(volume: Tensor, channel: Channel) -> Tensor:
    """Grey values as the network wants them: on the channel's window, or with the image's own mean and deviation."""
    window = channel.window
    if window is not None:
        return (volume.clamp(window.low, window.high) - window.mean) / window.deviation
    deviation = volume.std(correction=0)
    return (volume - volume.mean()) / deviation if deviation > 0 else torch.zeros_like(volume)


def _axes(depth: int) -> tuple[int, int, int]:
    second, third = (axis for axis in (2, 1, 0) if axis != depth)
    return depth, second, third


def _bounds(shown: np.ndarray) -> tuple[slice, ...]:
    if not shown.any():
        return tuple(slice(0, size) for size in shown.shape)
    rows = [np.flatnonzero(shown.any(axis=tuple(n for n in range(3) if n != axis))) for axis in range(3)]
    return tuple(slice(int(own[0]), int(own[-1]) + 1) for own in rows)


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in spacing) + " mm"
