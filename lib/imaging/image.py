"""A grey image and its place in the patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import nibabel
import numpy as np

from lib.imaging.errors import ImageError


class Digest(Protocol):
    """What `hashlib` makes."""

    def update(self, data: Any, /) -> None: ...


@dataclass(frozen=True, eq=False)
class Image:
    """A grey image and its place in the patient.

    Attributes:
        array: (I, J) or (I, J, K) grey values, bool, integer or float, finite and not all equal.
        affine: (4, 4) float64, voxel indices (i, j, k) to RAS mm; for (I, J) the third column says nothing.
        nifti_header: header of the NIfTI file it came from, so that its label can repeat units and form codes.
        others: further affines that its file's header can be read as (`lib.imaging.raw`).
        note: what a person should know of the file; empty as a rule.
        planes: (K, 3) where the slices begin, LPS mm, of a DICOM series whose slices lie unevenly.
        further: channels beside this one, on the same grid; most models take images of one channel.

    Raises:
        ImageError: other numbers of axes or types, NaN or infinity, one grey value only, a degenerate affine, channels
            of different shapes.
    """

    array: np.ndarray
    affine: np.ndarray
    nifti_header: nibabel.Nifti1Header | None = None
    others: tuple[np.ndarray, ...] = ()
    note: str = ""
    planes: np.ndarray | None = None
    further: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _checked_grey(np.asarray(self.array)))
        object.__setattr__(self, "affine", _checked_affine(np.asarray(self.affine, np.float64), self.array.ndim))
        if unlike := [channel.array.shape for channel in self.further if channel.array.shape != self.array.shape]:
            raise ImageError(f"all channels must have the first one's shape {self.array.shape}, got {unlike[0]}")

    @property
    def channels(self) -> tuple[Image, ...]:
        """Every channel, this one first."""
        return (self, *self.further)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance in mm between neighbouring voxels along each array axis."""
        return tuple(float(side) for side in np.linalg.norm(self.affine[:3, : self.array.ndim], axis=0))

    @cached_property
    def checksum(self) -> str:
        """Hex digest of the grey values with their type and shape, of the affine and of further channels."""
        digest = hashlib.sha256(f"{self.array.dtype.str} {self.array.shape}".encode())
        add_voxels(digest, self.array)
        digest.update(self.affine.tobytes())
        for channel in self.further:
            digest.update(channel.checksum.encode())
        return digest.hexdigest()


def add_voxels(digest: Digest, array: np.ndarray) -> None:
    """Take an array's bytes into a digest, its first axis the fastest, as files have it: mostly without a copy."""
    if array.flags.f_contiguous:
        digest.update(array.T)
    else:
        for part in range(array.shape[-1]):
            digest.update(np.asfortranarray(array[..., part]).T)


def _checked_grey(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageError(f"allowed are 2-D and 3-D images with at least one voxel, got the shape {array.shape}")
    if array.dtype.kind not in "buif":
        raise ImageError(f"allowed are integer and real grey values, got {array.dtype}: export magnitudes")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise ImageError(f"allowed are finite grey values, got {count} of NaN or infinity: replace them")
    if array.min() == array.max():
        raise ImageError(f"an image needs at least two grey values, got {array.flat[0]} everywhere: is it empty?")
    return array.astype(array.dtype.newbyteorder("="), copy=False)  # torch takes no foreign byte order


def _checked_affine(affine: np.ndarray, axes: int) -> np.ndarray:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ImageError(f"an affine must be 4 x 4 finite numbers (voxel indices to RAS mm), got {affine.tolist()}")
    if np.linalg.matrix_rank(affine[:3, :axes]) < axes:
        raise ImageError(f"an affine must send the {axes} axes in different directions, got {affine.tolist()}")
    return affine
