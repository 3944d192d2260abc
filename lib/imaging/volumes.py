"""Images as stacks of slices that correspond between patients, and the way back onto the image's own grid.

Files store the same anatomy in any axis order and direction. A `Stack` turns an image by whole axes, without touching
a voxel, into the one orientation that all stacks share, and turns masks back. In that orientation (left, posterior,
inferior) the axes of a slice run as the columns and rows of a picture of that plane usually do, which is how the
network sees pictures in training. A 2-D image is a stack of one slice.

`align` makes two stacks correspond slice by slice; `smooth` and `remove_small_components` use what a slice alone does
not know of its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from lib.imaging.images import Image
from lib.imaging.label_maps import boxes_of
from lib.imaging.prompts import Prompt

CANONICAL = axcodes2ornt(("L", "P", "I"))
AXIAL = 2  # of the canonical axes
ANISOTROPIC = 1.1  # spacings that differ by less than this factor count as equal
CLEARLY_LONGER = 1.2
DIGITS = (
    5  # of proportions: headers hold 32-bit numbers, and which of two equal lengths is larger must not hang on them
)
MAX_STRETCH = 3  # one anatomy may locally be this much longer than the other
WAIT = 0.3
MAX_ALIGNED = 1000  # steps on either side of an alignment, which bounds its memory


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices of an image in canonical orientation. Every array it returns is a view, never to be written to.

    Attributes:
        image: the image as it came.
        axis: canonical axis (0 left, 1 posterior, 2 inferior) along which the slices follow each other.
    """

    image: Image
    axis: int

    @classmethod
    def of(cls, image: Image, *, axis: int | None = None, plane: int | None = None, otherwise: int = AXIAL) -> Stack:
        """Choose the slices of an image; one of a single slice, or row, leaves no choice.

        Args:
            axis: stack along this axis of the image's own array.
            plane: stack along this canonical axis, as another stack does. With neither, along the axis of the largest
                spacing.
            otherwise: canonical axis to stack along where no spacing stands out.
        """
        stack = cls(image, AXIAL)
        single = [index for index, size in enumerate(stack.array.shape) if size == 1]
        if single:  # a row has two such axes
            return cls(image, single[-1])
        if axis is not None:
            return cls(image, int(stack._turn[axis, 0]))
        if plane is not None:
            return cls(image, plane)
        thick = thick_axis(stack.spacing)
        return cls(image, otherwise if thick is None else thick)

    @cached_property
    def _turn(self) -> np.ndarray:
        """(3, 2) nibabel orientation that takes the image's array axes to the canonical ones."""
        affine = self.image.affine
        if self.image.array.ndim == 2:  # the third column may say anything, even nothing
            affine = affine.copy()
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
        return np.asarray(ornt_transform(io_orientation(affine), CANONICAL)).astype(int)

    @cached_property
    def array(self) -> np.ndarray:
        """The grey values in canonical orientation, always 3-D."""
        return self.turned(self.image.array)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Voxel sides in mm along the canonical axes; a 2-D image counts as thick as its pixels' shorter side."""
        own = (*self.image.spacing, min(self.image.spacing))[:3]
        return tuple(own[index] for index in np.argsort(self._turn[:, 0]))

    @property
    def proportions(self) -> tuple[float, ...]:
        """Voxel sides along the canonical axes in shortest sides: the same whatever unit a header is wrong about."""
        return proportions(self.spacing)

    @property
    def own_axis(self) -> int:
        """The axis of the image's own array that the slices follow each other along; 2 also where it has only two."""
        return int(np.flatnonzero(self._turn[:, 0] == self.axis)[0])

    @property
    def thickness(self) -> float:
        """Distance in mm from slice to slice."""
        return self.spacing[self.axis]

    def __len__(self) -> int:
        return int(self.array.shape[self.axis])

    def slice(self, index: int) -> np.ndarray:
        """The (H, W) grey values of one slice."""
        return np.moveaxis(self.array, self.axis, 0)[index]

    def turned(self, volume: np.ndarray) -> np.ndarray:
        """An array on the image's grid, (I, J) or (I, J, K), in canonical orientation, always 3-D."""
        return np.asarray(apply_orientation(volume[..., None] if volume.ndim == 2 else volume, self._turn))

    def slices_of(self, volume: np.ndarray) -> np.ndarray:
        """An array on the image's grid, as slices (N, H, W)."""
        return np.moveaxis(self.turned(volume), self.axis, 0)

    def restored(self, slices: np.ndarray) -> np.ndarray:
        """Slices (N, H, W) back on the image's own grid and in its own number of axes: undoes `slices_of`."""
        inverse = np.empty_like(self._turn)
        inverse[self._turn[:, 0], 0] = range(3)
        inverse[self._turn[:, 0], 1] = self._turn[:, 1]
        volume = apply_orientation(np.moveaxis(slices, 0, self.axis), inverse)
        return np.ascontiguousarray(volume).reshape(self.image.array.shape)

    def prompt(self, prompt: Prompt) -> Prompt:
        """A prompt on the image to the same prompt on `array`, whose slices are `.on_slice(stack.axis, index)`.

        Raises:
            PromptError: the prompt leaves the image.
        """
        prompt.validate(self.image.array.shape)
        box = None
        if prompt.box is not None:
            first = self._turned_point(prompt.box[::2])
            last = self._turned_point([bound - 1 for bound in prompt.box[1::2]])
            box = tuple(bound for a, b in zip(first, last, strict=True) for bound in (min(a, b), max(a, b) + 1))
        arrays = {}
        for name in ("doodle", "background_doodle", "mask", "previous", "confirmed"):
            given = getattr(prompt, name)
            arrays[name] = None if given is None else self.turned(given)
        foreground = tuple(self._turned_point(point) for point in prompt.foreground)
        background = tuple(self._turned_point(point) for point in prompt.background)
        return Prompt(foreground, background, box, **arrays)

    def _turned_point(self, point: Sequence[int]) -> tuple[int, ...]:
        turned = [0, 0, 0]
        for index, (target, direction) in zip((*point, 0)[:3], self._turn, strict=True):
            turned[target] = index if direction > 0 else self.array.shape[target] - 1 - index
        return tuple(turned)


def proportions(lengths: Sequence[float]) -> tuple[float, ...]:
    """Lengths as multiples of the shortest one, rounded to `DIGITS`."""
    return tuple(round(length / min(lengths), DIGITS) for length in lengths)


def thick_axis(spacing: Sequence[float]) -> int | None:
    """The canonical axis of the largest spacing, None where all are equal; of two equal ones patient z."""
    sides = proportions(spacing)
    thick = [axis for axis, side in enumerate(sides) if side * ANISOTROPIC >= max(sides)]
    if len(thick) == len(sides):
        return None
    return AXIAL if AXIAL in thick else thick[0]


def long_axis(stack: Stack, mask: np.ndarray) -> int:
    """The canonical axis along which a bool mask on the image's grid is longest; axial unless that is much less.

    Cut across its length, a structure shows many small sections that change slowly, and two of them in different
    patients look alike; cut along it, a few large ones of every shape.
    """
    canonical = stack.turned(mask)
    extents = []
    for axis, side in enumerate(stack.proportions):
        shown = np.flatnonzero(canonical.any(axis=tuple({0, 1, 2} - {axis})))
        extents.append((shown[-1] - shown[0] + 1) * side if len(shown) else 0.0)
    longest = int(np.argmax(extents))
    return AXIAL if extents[AXIAL] * CLEARLY_LONGER >= extents[longest] else longest


def align(similarity: np.ndarray, thicknesses: tuple[float, float], stretch_cost: float) -> np.ndarray:
    """Which template slice each query slice corresponds to, never going back.

    Dynamic programming over a common step: the path earns the similarities along it and pays `stretch_cost` for
    each step by which one stack advances more than the other; waiting on either end of the template, whose field of
    view may be shorter than the query's, costs `WAIT` of that.

    Args:
        similarity: (Q, T) of query slices to template slices, both in canonical order.
        thicknesses: distance between slices, of query and template, in any unit that is the same for both.

    Returns:
        (Q,) indices of template slices.
    """
    sides = proportions(thicknesses)
    extents = [(count - 1) * side for count, side in zip(similarity.shape, sides, strict=True)]
    step = max(1.0, max(extents) / MAX_ALIGNED)
    grids = [np.arange(round(extent / step) + 1) * step / side for extent, side in zip(extents, sides, strict=True)]
    fine = ndimage.map_coordinates(similarity, np.meshgrid(*grids, indexing="ij"), order=1, mode="nearest")
    path = _best_path(fine, stretch_cost)
    at_query = np.clip(np.round(np.arange(len(similarity)) * sides[0] / step).astype(int), 0, len(fine) - 1)
    return np.clip(np.round(grids[1][path[at_query]]).astype(int), 0, similarity.shape[1] - 1)


def _best_path(gain: np.ndarray, stretch_cost: float) -> np.ndarray:
    """(Q,) column of each row of (Q, T), advancing by 0 to MAX_STRETCH columns a row, with the greatest total gain."""
    rows, columns = gain.shape
    total, cameby = gain[0].copy(), np.zeros((rows, columns), np.int8)
    for row in range(1, rows):
        options = np.full((MAX_STRETCH + 1, columns), -np.inf)
        for advance in range(min(MAX_STRETCH + 1, columns)):
            options[advance, advance:] = total[: columns - advance] - stretch_cost * abs(advance - 1)
        options[0, [0, -1]] = total[[0, -1]] - WAIT * stretch_cost
        cameby[row] = options.argmax(axis=0)
        total = options.max(axis=0) + gain[row]
    path = np.empty(rows, int)
    path[-1] = total.argmax()
    for row in range(rows - 1, 0, -1):
        path[row - 1] = path[row] - cameby[row, path[row]]
    return path


def smooth(slices: np.ndarray, spacing: Sequence[float], sigmas: Sequence[float]) -> np.ndarray:
    """Gaussian smoothing of (N, H, W), as wide in every direction of space as voxels are on average.

    Nothing here is a fixed length: a structure of so many voxels is smoothed alike in a body and under a microscope.

    Args:
        spacing: voxel sides along the axes, in any unit.
        sigmas: one for each axis, in average voxel sides (their geometric mean): in voxels where all sides are equal.
    """
    sides = proportions(spacing)
    average = float(np.prod(sides)) ** (1 / len(sides))
    own = [sigma * average / n if size > 1 else 0.0 for sigma, n, size in zip(sigmas, sides, slices.shape, strict=True)]
    if not any(own):
        return slices
    return np.asarray(ndimage.gaussian_filter(slices, own, mode="nearest"))


def remove_small_components(mask: np.ndarray, least: float) -> np.ndarray:
    """A 2-D or 3-D bool mask without the connected parts smaller than `least` times the largest one."""
    box = boxes_of(mask).get(1)
    if box is None or least <= 0:
        return mask
    parts, sizes = _connected(mask[box])
    if len(sizes) < 2:
        return mask
    kept = np.zeros_like(mask)
    kept[box] = np.append(False, sizes >= least * sizes.max())[parts]
    return kept


def smallest_part(mask: np.ndarray) -> float:
    """Size of a bool mask's smallest connected part as a share of its largest one; 1 for a whole or empty mask."""
    box = boxes_of(mask).get(1)
    sizes = np.ones(1) if box is None else _connected(mask[box])[1]
    return float(sizes.min() / sizes.max())


def _connected(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts numbered from 1, corners included, and their sizes in voxels."""
    parts, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return parts, np.bincount(parts.ravel())[1:]
