"""What an annotator says about one structure on one image, and how the network sees it.

A `Prompt` lives in voxel indices of its own image, (i, j) or (i, j, k), the order of the array's axes. `rasterise`
turns a 2-D prompt into dense maps at the network's resolution, because a dense map reaches every token of every
One-Prompt Former block, where a list of coordinates reaches only the tokens that attend to it. Training draws prompts
with `lib/learning/simulated_prompts.py` and rasterises them with the same function.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from lib.imaging.transforms import resize_mask


class PromptType(enum.Enum):
    """The four prompt types of the One-Prompt paper."""

    CLICK = "click"
    BBOX = "bbox"
    DOODLE = "doodle"
    SEGLAB = "seglab"


class PromptError(ValueError):
    """A prompt that contradicts itself or does not fit its image."""


# Channels of the prompt maps. PREVIOUS is the model's own last answer: unlike SEGLAB it may be wrong.
MAP_CHANNELS = ("click", "bbox", "doodle", "seglab", "previous")
CLICK, BBOX, DOODLE, SEGLAB, PREVIOUS = range(len(MAP_CHANNELS))
SLOTS = 2  # p1 and p2 of the paper

CLICK_SIGMA = 0.02  # of the network's image size: 2.6 pixels at 128, about one token of the finest Former block

_ARRAYS = ("doodle", "background_doodle", "mask", "previous", "confirmed")


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything said about one structure on one image.

    Attributes:
        foreground: clicks inside the structure, voxel indices (i, j) or (i, j, k).
        background: clicks outside the structure, same frame.
        box: half-open voxel bounds (i0, i1, j0, j1) or (i0, i1, j0, j1, k0, k1) that contain the structure.
        doodle: bool array of the image's shape, strokes inside the structure.
        background_doodle: bool array of the image's shape, strokes outside the structure.
        mask: bool array of the image's shape, the structure itself, trusted (SegLab).
        previous: bool or probability array of the image's shape, the model's last answer, to be refined.
        confirmed: bool array of the image's shape, voxels of which `mask` is sure also where it is empty: they stand.

    Raises:
        PromptError: reversed box bounds, points that are not whole numbers, mixed dimensions or array shapes.
    """

    foreground: tuple[tuple[int, ...], ...] = ()
    background: tuple[tuple[int, ...], ...] = ()
    box: tuple[int, ...] | None = None
    doodle: np.ndarray | None = None
    background_doodle: np.ndarray | None = None
    mask: np.ndarray | None = None
    previous: np.ndarray | None = None
    confirmed: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "foreground", _whole_points("foreground", self.foreground))
        object.__setattr__(self, "background", _whole_points("background", self.background))
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))
        for name in _ARRAYS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name)))
        dimensions = self._dimensions()
        if len(set(dimensions.values())) > 1:
            raise PromptError(f"all parts of a prompt must be 2-D or all 3-D, got {dimensions}")
        shapes = {name: getattr(self, name).shape for name in _ARRAYS if getattr(self, name) is not None}
        if len(set(shapes.values())) > 1:
            raise PromptError(f"all arrays of a prompt must have the image's shape, got {shapes}")

    def _dimensions(self) -> dict[str, int]:
        dimensions = {name: len(points[0]) for name in ("foreground", "background") if (points := getattr(self, name))}
        if self.box is not None:
            dimensions["box"] = len(self.box) // 2
        dimensions.update({name: array.ndim for name in _ARRAYS if (array := getattr(self, name)) is not None})
        return dimensions

    @property
    def types(self) -> frozenset[PromptType]:
        """The paper's prompt types present here (`previous` is none of them)."""
        present = {
            PromptType.CLICK: bool(self.foreground or self.background),
            PromptType.BBOX: self.box is not None,
            PromptType.DOODLE: self.doodle is not None or self.background_doodle is not None,
            PromptType.SEGLAB: self.mask is not None,
        }
        return frozenset(kind for kind, there in present.items() if there)

    @property
    def is_empty(self) -> bool:
        """True where nothing was said at all."""
        return not self.types and self.previous is None

    def validate(self, shape: Sequence[int]) -> None:
        """Raise `PromptError` unless every point, box and array fits an image of this shape (voxels)."""
        shape = tuple(int(n) for n in shape)
        for name, dimension in self._dimensions().items():
            if dimension != len(shape):
                raise PromptError(f"{name} must be {len(shape)}-D like the image of shape {shape}, got {dimension}-D")
        for name in ("foreground", "background"):
            for point in getattr(self, name):
                if any(not 0 <= index < size for index, size in zip(point, shape, strict=True)):
                    raise PromptError(
                        f"{name} point {point} lies outside the image: allowed are voxel indices from 0 to "
                        f"{tuple(n - 1 for n in shape)}; click inside the image"
                    )
        if self.box is not None:
            for axis, size in enumerate(shape):
                low, high = self.box[2 * axis : 2 * axis + 2]
                if low < 0 or high > size:
                    raise PromptError(
                        f"box {self.box} leaves the image: allowed on axis {axis} are half-open bounds within "
                        f"(0, {size}), got ({low}, {high}); draw the box inside the image"
                    )
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise PromptError(f"{name} must have the image's shape {shape}, got {array.shape}")

    def on_slice(self, axis: int, index: int) -> Prompt:
        """The 2-D prompt that this 3-D prompt means on one slice; empty where it says nothing there."""

        def flat(points: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
            return tuple(point[:axis] + point[axis + 1 :] for point in points if point[axis] == index)

        box = self.box
        if box is not None:
            inside = box[2 * axis] <= index < box[2 * axis + 1]
            box = box[: 2 * axis] + box[2 * axis + 2 :] if inside else None
        arrays = {name: _take(getattr(self, name), axis, index) for name in _ARRAYS}
        for name in ("doodle", "background_doodle"):
            strokes = arrays[name]
            arrays[name] = strokes if strokes is not None and strokes.any() else None
        return Prompt(flat(self.foreground), flat(self.background), box, **arrays)

    def slices(self, axis: int) -> list[int]:
        """Sorted slice indices along `axis` that clicks, box, doodles or a non-empty mask touch."""
        touched = {point[axis] for point in (*self.foreground, *self.background)}
        if self.box is not None:
            touched.update(range(*self.box[2 * axis : 2 * axis + 2]))
        for array in (self.doodle, self.background_doodle, self.mask):
            if array is not None:
                others = tuple(a for a in range(array.ndim) if a != axis)
                touched.update(np.flatnonzero(array.any(axis=others)).tolist())
        return sorted(int(index) for index in touched)

    def replace(self, **changes: object) -> Prompt:
        """A copy with some fields changed."""
        allowed = {field.name for field in fields(self)}
        if unknown := set(changes) - allowed:
            raise TypeError(f"a Prompt has the fields {sorted(allowed)}, got {sorted(unknown)}")
        return replace(self, **changes)  # type: ignore[arg-type]


def rasterise(prompt: Prompt, shape: Sequence[int], size: int) -> np.ndarray:
    """Dense maps of a 2-D prompt at the network's resolution.

    Args:
        prompt: 2-D prompt in voxel indices of a slice.
        shape: (I, J) of that slice.
        size: side S of the network's square input.

    Returns:
        float32 (2, 5, S, S): slot (p1, p2), channel (`MAP_CHANNELS`), then the slice's own axes. All zeros say
        nothing; an empty SegLab mask is not all zeros, because p2 carries its complement.
    """
    prompt.validate(shape)
    maps = np.zeros((SLOTS, len(MAP_CHANNELS), size, size), np.float32)
    scale = np.array([size / shape[0], size / shape[1]])
    for slot, points in enumerate((prompt.foreground, prompt.background)):
        if points:
            maps[slot, CLICK] = click_map((np.array(points) + 0.5) * scale, size)
    if prompt.box is not None:
        i0, i1, j0, j1 = prompt.box
        maps[:, BBOX] = box_maps(np.array([i0, i1]) * scale[0], np.array([j0, j1]) * scale[1], size)
    for slot, strokes in enumerate((prompt.doodle, prompt.background_doodle)):
        if strokes is not None:
            maps[slot, DOODLE] = np.minimum(1, 2 * resize_mask(strokes, size))  # thin strokes survive shrinking
    for channel, array in ((SEGLAB, prompt.mask), (PREVIOUS, prompt.previous)):
        if array is not None:
            inside = resize_mask(array, size)
            maps[0, channel], maps[1, channel] = inside, 1 - inside
    return maps


def click_map(points: np.ndarray, size: int) -> np.ndarray:
    """(S, S) map with a Gaussian bump of height 1 at each of the (N, 2) points, in continuous pixel coordinates."""
    grid = np.arange(size) + 0.5
    squared = (grid[None, :, None] - points[:, 0, None, None]) ** 2 + (grid[None, None] - points[:, 1, None, None]) ** 2
    return np.exp(-squared / (2 * (CLICK_SIGMA * size) ** 2)).max(axis=0).astype(np.float32)


def box_maps(bounds_i: np.ndarray, bounds_j: np.ndarray, size: int) -> np.ndarray:
    """(2, S, S) dense form of a box's two corners: everything after the first, everything before the second.

    Their overlap is the box; each map alone says where its corner lies for every token. Bounds in continuous pixels.
    """
    grid = np.arange(size) + 0.5
    after = (grid[:, None] >= bounds_i[0]) & (grid[None] >= bounds_j[0])
    before = (grid[:, None] <= bounds_i[1]) & (grid[None] <= bounds_j[1])
    return np.stack([after, before]).astype(np.float32)


def _whole_points(name: str, points: Sequence[Sequence[float]]) -> tuple[tuple[int, ...], ...]:
    whole = []
    for point in points:
        values = np.asarray(point)
        if values.ndim != 1 or len(values) not in (2, 3) or not np.issubdtype(values.dtype, np.number):
            raise PromptError(f"each {name} point must be (i, j) or (i, j, k) voxel indices, got {point!r}")
        if not np.array_equal(values, np.floor(values)):
            raise PromptError(
                f"each {name} point must be whole voxel indices, got {point!r}: round to the nearest voxel"
            )
        whole.append(tuple(int(v) for v in values))
    if len({len(point) for point in whole}) > 1:
        raise PromptError(f"all {name} points must be (i, j) or all (i, j, k), got {whole}")
    return tuple(whole)


def _checked_box(box: Sequence[float]) -> tuple[int, ...]:
    if len(box) not in (4, 6) or any(float(v) != int(v) for v in box):
        raise PromptError(f"box must be whole half-open bounds (i0, i1, j0, j1) or with (k0, k1) added, got {box!r}")
    whole = tuple(int(v) for v in box)
    if any(low >= high for low, high in zip(whole[::2], whole[1::2], strict=True)):
        raise PromptError(
            f"box must be half-open bounds with first below second on each axis, got {whole}: sort each pair"
        )
    return whole


def _take(array: np.ndarray | None, axis: int, index: int) -> np.ndarray | None:
    # A view: numpy's `take` would bring the whole volume into another order first
    return None if array is None else array[(slice(None),) * axis + (index,)]
