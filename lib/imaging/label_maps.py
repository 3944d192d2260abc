"""Label maps from whoever made them onto an image's grid: by whole axes, never by resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

from lib.imaging.errors import ImageError
from lib.imaging.raw import SAME_PLACE, Raw, millimetres_apart, rounding

ALMOST_WHOLE = 1e-3  # resampling by nearest neighbours in floating point leaves no more than this
Reading = tuple[np.ndarray, np.ndarray]  # affines of the image and of the label
Box = tuple[slice, ...]


def boxes_of(label: np.ndarray) -> dict[int, Box]:
    """{value: the box of its voxels} of the values from 1 on that a label map holds, in ascending order."""
    numbers = label.view(np.uint8) if label.dtype == bool else label
    in_memory = numbers.T if numbers.flags.f_contiguous else numbers  # scipy goes through it in the order of its axes
    around = _bounds(in_memory)
    boxes = {}
    for value, inner in enumerate(ndimage.find_objects(in_memory[around]) if around else (), start=1):
        if inner is not None:
            box = tuple(
                slice(outer.start + side.start, outer.start + side.stop)
                for outer, side in zip(around, inner, strict=True)
            )
            boxes[value] = box if in_memory is numbers else box[::-1]
    return boxes


def _bounds(array: np.ndarray) -> Box:
    """The box of all voxels that are not 0; empty where there are none."""
    box: list[slice] = []
    for axis in range(array.ndim):
        inside = array[tuple(box)]
        there = np.flatnonzero(inside.any(axis=tuple(other for other in range(array.ndim) if other != axis)))
        if not there.size:
            return ()
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def centre_of(label: np.ndarray, value: int, box: Box) -> tuple[float, ...]:
    """Centre of mass in voxel indices of a value that a label map holds within a box."""
    inside = label[box] == value
    centre = []
    for axis, side in enumerate(box):
        counts = np.count_nonzero(inside, axis=tuple(other for other in range(inside.ndim) if other != axis))
        centre.append(float(counts @ np.arange(side.start, side.stop) / counts.sum()))
    return tuple(centre)


def whole_labels(label: np.ndarray) -> np.ndarray:
    """Label values as uint8, or uint16 where they need it. Raises ImageError where they are no labels."""
    if label.dtype.kind == "f":
        if lost := int(label.size - np.isfinite(label).sum()):
            raise ImageError(f"labels must be whole numbers, got {lost} voxels that are no numbers: save them as 0")
        whole = np.rint(label)
        if np.abs(whole - label).max(initial=0) > ALMOST_WHOLE:
            raise ImageError(f"labels must be whole numbers, got {label.dtype} with fractions: save a label map")
        label = whole
    elif label.dtype.kind not in "bui":
        raise ImageError(f"labels must be whole numbers, got {label.dtype}: save a label map")
    low, high = (label.min(), label.max()) if label.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ImageError(f"labels must lie between 0 and 65535, got {low} to {high}: number them from 1")
    return label.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def segments_of(raw: Raw) -> tuple[np.ndarray, dict[int, str]]:
    """The segments of a segmentation file as one label map on its own grid, and {value: name}.

    Values are the file's own where it has one layer, else 1, 2, ... in the file's order; segments of several layers may
    overlap, and then the smaller one is kept. Names that the file gives twice are told apart by a number.
    """
    layers = raw.array if raw.channels else raw.array[..., None]
    segments = [one for one in raw.segments if 0 <= one.layer < layers.shape[-1]]
    names: list[str] = []
    for number, one in enumerate(segments, start=1):
        names.append(f"{one.name} {number}" if one.name in names else one.name)
    if len({one.layer for one in segments}) < 2 and layers.shape[-1] == 1:
        values = [one.value for one in segments]
        return layers[..., 0], dict(zip(values, names, strict=True))
    masks = [layers[..., one.layer] == one.value for one in segments]
    return painted(masks), dict(enumerate(names, start=1))


def painted(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Bool masks of one shape as a label map with the values 1, 2, ...; where they overlap the smaller one is kept."""
    label = np.zeros(masks[0].shape, np.uint8 if len(masks) < 256 else np.uint16)
    sizes = [int(mask.sum()) for mask in masks]
    for place in sorted(range(len(masks)), key=lambda place: -sizes[place]):
        label[masks[place]] = place + 1
    return label


def on_grid_of(shape: tuple[int, ...], label: np.ndarray, readings: Sequence[Reading], cropped: bool) -> np.ndarray:
    """A label map on the grid of an image.

    Args:
        shape: the image's.
        label: on its own grid.
        readings: the ways to read where the image and the label lie, the likeliest first; one that fits is enough.
        cropped: the label may be a part of the image's grid.

    Raises:
        ImageError: none fits.
    """
    if len(shape) == 2 and not (cropped and label.shape[:2] != shape):
        if label.shape in (shape, (*shape, 1)):
            return label.reshape(shape)
        raise ImageError(f"a label must have its image's shape {shape}, got {label.shape}: save it on the image's grid")
    label = label[..., None] if label.ndim == 2 else label
    grid = (*shape, 1)[:3]
    fitting, shifts = [], []
    for image, its in (
        readings if len(shape) == 3 else [(_with_normal(image), _with_normal(its)) for image, its in readings]
    ):
        turn = ornt_transform(io_orientation(its), io_orientation(image))
        if np.isnan(turn).any():
            continue
        turned, affine = apply_orientation(label, turn), its @ inv_ornt_aff(turn, label.shape)
        start = _start(image, affine, turned.shape) if cropped else np.zeros(3, int)
        if start is None or not (cropped or turned.shape == grid):
            continue
        moved = affine.copy()
        moved[:3, 3] -= image[:3, :3] @ start
        side = np.linalg.norm(image[:3, :3], axis=0).min()
        shifts.append(millimetres_apart(image, moved, grid))
        if shifts[-1] <= SAME_PLACE * side + rounding(image, grid):
            same = np.array_equal(turn, [[0, 1], [1, 1], [2, 1]])
            fitting.append((not same, turned, start))
    if fitting:
        _, turned, start = min(fitting, key=lambda one: one[0])
        return (_pasted(turned, start, grid) if cropped else turned).reshape(shape)
    if not shifts and label.shape == grid:
        raise ImageError(
            f"a label must lie where its image lies (within {SAME_PLACE} voxels), got axes in other directions: "
            "resample it to the image's grid"
        )
    if not shifts:
        raise ImageError(f"a label must have its image's shape {shape}, got {label.shape}: save it on the image's grid")
    raise ImageError(
        f"a label must lie where its image lies (within {SAME_PLACE} voxels), got corners {min(shifts):.3g} mm away: "
        "resample it to the image's grid"
    )


def _with_normal(affine: np.ndarray) -> np.ndarray:
    """A flat image's affine with a third column, which may say anything there, even nothing."""
    affine = affine.copy()
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    return affine


def _start(image: np.ndarray, label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Image voxel (3,) that a label's first voxel is; None where its grid is no part of the image's."""
    inside = np.linalg.inv(image) @ label
    if np.abs((inside[:3, :3] - np.eye(3)) @ shape).max() > SAME_PLACE:
        return None
    return np.rint(inside[:3, 3]).astype(int)


def _pasted(label: np.ndarray, start: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(grid, label.dtype)
    low, high = np.maximum(start, 0), np.minimum(start + label.shape, grid)
    if (high > low).all():
        target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        whole[target] = label[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
    if (lost := np.count_nonzero(label) - np.count_nonzero(whole)) > 0:
        raise ImageError(f"a label must lie on its image, got {lost} voxels outside it: draw it on this image")
    return whole
