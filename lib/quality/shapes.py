"""A mask's shape in numbers that can be compared between studies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.imaging.label_maps import boxes_of
from lib.imaging.volumes import Stack

CRUMB = 0.02  # parts below this share of the largest one are not counted


@dataclass(frozen=True)
class Shape:
    """One structure's shape on its own grid.

    Attributes:
        volume: in mm^3; of a flat image in mm^2.
        share: of the image.
        parts: connected parts, crumbs left out.
        contact: share of its surface that lies on the image's border, 0 to 1.
        roughness: surface for its size, without unit; 4 for a square, 6 for a cube, more for what is thin or torn.
        centre: of mass, 0 to 1 along each of the canonical axes.
    """

    volume: float
    share: float
    parts: int
    contact: float
    roughness: float
    centre: tuple[float, float, float]

    @classmethod
    def of(cls, stack: Stack, slices: np.ndarray) -> Shape:
        """Measure a bool mask (N, H, W) given in the stack's slices; all zeros for an empty one."""
        mask = np.moveaxis(slices, 0, stack.axis)
        box = boxes_of(mask).get(1)
        if box is None:
            return cls(0.0, 0.0, 0, 0.0, 0.0, (0.5, 0.5, 0.5))
        inner = mask[box]
        axes = [axis for axis, size in enumerate(mask.shape) if size > 1]
        voxel = float(np.prod([stack.spacing[axis] for axis in axes]))
        surface = contact = 0.0
        for axis in axes:
            face = voxel / stack.spacing[axis]
            ends = np.pad(inner, [(int(a == axis), int(a == axis)) for a in range(3)])
            surface += face * float((np.diff(ends.astype(np.int8), axis=axis) != 0).sum())
            low, high = box[axis].start == 0, box[axis].stop == mask.shape[axis]
            contact += face * float(low * inner.take(0, axis).sum() + high * inner.take(-1, axis).sum())
        count = int(inner.sum())
        sizes = np.bincount(ndimage.label(inner, structure=np.ones((3, 3, 3)))[0].ravel())[1:]
        centre = [
            (place + part.start + 0.5) / size
            for place, part, size in zip(ndimage.center_of_mass(inner), box, mask.shape, strict=True)
        ]
        return cls(
            volume=count * voxel,
            share=count / mask.size,
            parts=int((sizes >= CRUMB * sizes.max()).sum()),
            contact=contact / surface,
            roughness=surface / (count * voxel) ** ((len(axes) - 1) / len(axes)),
            centre=(centre[0], centre[1], centre[2]),
        )
