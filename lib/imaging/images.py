"""Images and label maps from files and back, with their place in the patient exactly as the file states it.

Arrays are (i, j) or (i, j, k) with i the file's fastest axis; affines take voxel indices to RAS mm. Nothing here
resamples: what is turned to fit a grid is turned by whole axes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from lib.imaging.errors import ImageError
from lib.imaging.files import write_atomically
from lib.imaging.formats import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    WRITERS,
    Raw,
    compressed_nifti_bytes,
    read_raw,
    suffix_of,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "Image",
    "ImageError",
    "read_image",
    "read_label",
    "write_image",
    "write_label",
]

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, Pillow's own choice
SAME_PLACE = 0.1  # voxels: headers round their numbers, but two different grids differ by more than this


@dataclass(frozen=True, eq=False)
class Image:
    """A grey image and its place in the patient.

    Attributes:
        array: (I, J) or (I, J, K) grey values, bool, integer or float, finite and not all equal.
        affine: (4, 4) float64, voxel indices (i, j, k) to RAS mm; for (I, J) the third column says nothing.
        nifti_header: header of the NIfTI file it came from, so that its label can repeat units and form codes.

    Raises:
        ImageError: other numbers of axes or types, NaN or infinity, one grey value only, a degenerate affine.
    """

    array: np.ndarray
    affine: np.ndarray
    nifti_header: nibabel.Nifti1Header | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _checked_grey(np.asarray(self.array)))
        object.__setattr__(self, "affine", _checked_affine(np.asarray(self.affine, np.float64), self.array.ndim))

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance in mm between neighbouring voxels along each array axis."""
        return tuple(float(side) for side in np.linalg.norm(self.affine[:3, : self.array.ndim], axis=0))

    @cached_property
    def checksum(self) -> str:
        """Hex digest of the grey values with their type and shape, and of the affine."""
        digest = hashlib.sha256(f"{self.array.dtype.str} {self.array.shape}".encode())
        digest.update(self.array.tobytes())
        digest.update(self.affine.tobytes())
        return digest.hexdigest()


def read_image(path: str | Path) -> Image:
    """The grey image in a file of `IMAGE_SUFFIXES`, or in a folder with one DICOM series.

    Colour becomes luminance. Further axes of length 1 after the third are dropped; a third axis of length 1 stays.

    Raises:
        ImageError: missing, unreadable, of another format, 4-D, or anything that `Image` refuses.
    """
    path = Path(path)
    raw = read_raw(path)
    try:
        return Image(_at_most_3d(_luminance(raw)), raw.affine, raw.header)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def read_label(path: str | Path, like: Image | None = None) -> np.ndarray:
    """The label map in a file, uint8 or uint16, in the file's array axes or in those of `like`.

    A label whose axes run in another order or direction than the image's is turned by whole axes. A 2-D image takes
    the one-slice volume that viewers make of it, wherever that volume claims to lie.

    Raises:
        ImageError: missing or unreadable, not whole numbers from 0 to 65535, or on another grid than `like`.
    """
    path = Path(path)
    raw = read_raw(path)
    try:
        label = _at_most_3d(_single_channel(raw))
        return _whole_labels(label if like is None else _on_grid_of(like, label, raw.affine))
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def write_image(path: str | Path, image: Image) -> None:
    """Write an image as gzipped NIfTI, atomically; its affine is rounded to NIfTI's 32-bit numbers."""
    write_atomically(Path(path), compressed_nifti_bytes(image.array, image.affine, image.nifti_header))


def write_label(path: str | Path, mask: np.ndarray, like: Image) -> None:
    """Write a label map on the grid of `like`, atomically, as NIfTI, NRRD or (2-D only) PNG by the path's suffix.

    The affine read back equals that of `like` bit for bit. Only NIfTI written for an image of another format rounds
    it, since NIfTI holds 32-bit numbers: use NRRD for those.

    Args:
        mask: bool or whole numbers from 0 to 65535, of the image's shape; stored as uint8 where that is enough.

    Raises:
        ImageError: another shape or suffix, or values that are no labels.
    """
    path = Path(path)
    mask = _whole_labels(np.asarray(mask))
    if mask.shape != like.array.shape:
        raise ImageError(f"{path.name}: a label must have its image's shape {like.array.shape}, got {mask.shape}")
    encode = WRITERS[suffix_of(path, LABEL_SUFFIXES)]
    write_atomically(path, encode(mask, like.affine, like.nifti_header))


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


def _at_most_3d(array: np.ndarray) -> np.ndarray:
    if any(size != 1 for size in array.shape[3:]):
        raise ImageError(
            f"allowed are 2-D and 3-D, got {array.ndim}-D of shape {array.shape} (a time series or several channels?): "
            "export one volume"
        )
    return array.reshape(array.shape[:3])


def _luminance(raw: Raw) -> np.ndarray:
    if raw.palette is None and raw.channels == 0:
        return raw.array
    colours = raw.array if raw.palette is None else raw.palette[raw.array]
    if colours.shape[-1] not in (1, 3, 4):
        raise ImageError(f"allowed are 1, 3 or 4 colour channels, got {colours.shape[-1]}: export one of them")
    if colours.shape[-1] == 1:
        return colours[..., 0]
    return (colours[..., :3] @ LUMINANCE).astype(np.float32)


def _single_channel(raw: Raw) -> np.ndarray:
    if raw.channels == 0:
        return raw.array
    if (raw.array != raw.array[..., :1]).any():
        raise ImageError(f"a label must be one number a voxel, got {raw.channels} colour channels: save indices")
    return raw.array[..., 0]


def _whole_labels(label: np.ndarray) -> np.ndarray:
    if label.dtype.kind not in "buif" or (label.dtype.kind == "f" and not np.array_equal(label, np.floor(label))):
        raise ImageError(f"labels must be whole numbers, got {label.dtype} with fractions: save a label map")
    low, high = (label.min(), label.max()) if label.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ImageError(f"labels must lie between 0 and 65535, got {low} to {high}: number them from 1")
    return label.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _on_grid_of(image: Image, label: np.ndarray, affine: np.ndarray) -> np.ndarray:
    shape = image.array.shape
    if len(shape) == 2:
        if label.shape == (*shape, 1):
            return label[..., 0]
        if label.shape == shape:
            return label
        raise ImageError(f"a label must have its image's shape {shape}, got {label.shape}: save it on the image's grid")
    if label.ndim == 2:
        label = label[..., None]
    turn = ornt_transform(io_orientation(affine), io_orientation(image.affine))
    turned, place = apply_orientation(label, turn), affine @ inv_ornt_aff(turn, label.shape)
    if turned.shape != shape:
        raise ImageError(f"a label must have its image's shape {shape}, got {label.shape}: save it on the image's grid")
    shift = _greatest_shift(image, place)
    if shift > SAME_PLACE * min(image.spacing) + _rounding(image):
        raise ImageError(
            f"a label must lie where its image lies (within {SAME_PLACE} voxels), got corners {shift:.3g} mm away: "
            "resample it to the image's grid"
        )
    return turned


def _rounding(image: Image) -> float:
    """How far 32-bit numbers may move a voxel, in mm: much for voxels that are tiny beside their distance from 0."""
    reach = np.abs(image.affine[:3, :3]) @ (*image.array.shape, 1)[:3] + np.abs(image.affine[:3, 3])
    return float(np.finfo(np.float32).eps * np.linalg.norm(reach))


def _greatest_shift(image: Image, affine: np.ndarray) -> float:
    """Largest distance in mm between where the two affines put a corner of the image."""
    corners = np.stack(np.meshgrid(*([-0.5, size - 0.5] for size in image.array.shape), indexing="ij"), axis=-1)
    difference = (image.affine - affine)[:3]
    return float(np.linalg.norm(corners.reshape(-1, 3) @ difference[:, :3].T + difference[:, 3], axis=1).max())
