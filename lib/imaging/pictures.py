"""One slice of a study as a person looks at it: the slice that tells most, upright, with its mask drawn in.

Slices are shown as radiologists see them: the patient's right is on the left, the front (axial) or the head is up.
Pictures that are no volumes lie as they lie in their file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from PIL import Image as Pillow
from skimage.segmentation import find_boundaries

from lib.imaging.images import Image
from lib.imaging.volumes import proportions

SOFT_TISSUE = (-160.0, 240.0)  # HU
# Okabe and Ito's colours, which colour-blind people tell apart, without those that are dark on grey
COLOURS = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (204, 121, 167), (213, 94, 0))
FILL = 0.3  # how much of the colour inside a structure; its outline is opaque


@dataclass(frozen=True, eq=False)
class Upright:
    """Arrays of one study, turned by whole axes so that their slices can be shown.

    Attributes:
        arrays: (R, A, S) with indices growing towards right, front and head; or (I, J) as in the file.
        axis: the axis that slices are taken along, the one with the thickest voxels; None for (I, J).
        aspect: height of a shown pixel relative to its width.
    """

    arrays: tuple[np.ndarray, ...]
    axis: int | None
    aspect: float

    def planes(self, index: int) -> list[np.ndarray]:
        """Slice `index` of every array, rows from top to bottom; of (I, J) arrays there is only one."""
        if self.axis is None:
            return [array.T for array in self.arrays]
        planes = [np.take(array, index, self.axis).T[::-1] for array in self.arrays]
        return planes if self.axis == 0 else [plane[:, ::-1] for plane in planes]


def upright(arrays: Sequence[np.ndarray], affine: np.ndarray) -> Upright:
    """Turn arrays of one shape, (I, J) or (I, J, K), on the grid of `affine` (4, 4, voxel index to RAS mm)."""
    if arrays[0].ndim == 2:
        return Upright(tuple(arrays), None, 1.0)
    turn = io_orientation(affine)
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    axis = 2 - int(np.argmax(proportions(spacing.tolist())[::-1]))  # axial where several are equal
    across, up = (n for n in range(3) if n != axis)
    return Upright(tuple(apply_orientation(a, turn) for a in arrays), axis, float(spacing[up] / spacing[across]))


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Grey values to show as black and as white: soft tissue where the values can only be HU."""
    low, high = np.percentile(image, (1, 99.5))
    return SOFT_TISSUE if low < -500 else (float(low), float(high))


def most_telling(mask: np.ndarray, axis: int) -> int:
    """Index along `axis` of the slice with the largest mask area; the middle one where the mask is empty."""
    areas = np.count_nonzero(mask, axis=tuple(n for n in range(mask.ndim) if n != axis))
    return int(areas.argmax()) if areas.any() else mask.shape[axis] // 2


def overlay(image: Image, mask: np.ndarray | None, size: int) -> np.ndarray:
    """The most telling slice with its structures filled and outlined.

    Args:
        image: 2-D or 3-D.
        mask: label values on the image's grid, value n in colour n; None for the image alone.
        size: pixels of the longer side.

    Returns:
        (H, W, 3) uint8.
    """
    turned = upright((image.array, np.zeros(image.array.shape, np.uint8) if mask is None else mask), image.affine)
    index = 0 if turned.axis is None else most_telling(turned.arrays[1], turned.axis)
    grey, labels = turned.planes(index)
    width, height = _fitted(grey.shape, turned.aspect, size)
    low, high = grey_window(image.array)
    shown = (255 * np.clip((grey.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1)).astype(np.uint8)
    base = np.asarray(Pillow.fromarray(shown).resize((width, height), Pillow.Resampling.BILINEAR), np.float32)
    rows, columns = (_nearest(n, m) for n, m in zip(labels.shape, (height, width), strict=True))
    return _painted(base, labels[rows][:, columns])


def colour_of(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a structure by its number, from 1; the same in every picture, page and file."""
    return COLOURS[(number - 1) % len(COLOURS)]


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """A colour as web pages take it, #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _painted(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    colours = np.array(COLOURS, np.float32)[(labels.astype(int) - 1) % len(COLOURS)]
    opacity = np.where(find_boundaries(labels, mode="inner"), 1.0, FILL) * (labels > 0)
    return (grey[..., None] * (1 - opacity[..., None]) + colours * opacity[..., None]).astype(np.uint8)


def _fitted(shape: tuple[int, ...], aspect: float, size: int) -> tuple[int, int]:
    """Width and height in pixels that keep the slice's true proportions."""
    height, width = shape[0] * aspect, float(shape[1])
    scale = size / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` pixels, which of `source` ones its centre lies in."""
    return ((np.arange(target) + 0.5) * source / target).astype(int)
