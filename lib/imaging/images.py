"""Images and label maps from files and back, with their place in the patient exactly as the file states it.

Arrays are (i, j) or (i, j, k) with i the file's fastest axis; affines take voxel indices to RAS mm. Nothing here
resamples: what is turned to fit a grid is turned by whole axes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from lib.imaging.dicom_headers import read_dataset, read_header
from lib.imaging.dicom_seg import is_seg, read_seg
from lib.imaging.errors import ImageError
from lib.imaging.files import write_atomically
from lib.imaging.formats import DICOM_SUFFIXES, IMAGE_SUFFIXES, LABEL_SUFFIXES, WRITERS, read_raw, suffix_of
from lib.imaging.image import Image
from lib.imaging.label_maps import on_grid_of, segments_of, whole_labels
from lib.imaging.nifti import compressed_nifti_bytes
from lib.imaging.raw import Raw, upright
from lib.imaging.sizes import MB, at_most

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "Image",
    "ImageError",
    "image_of",
    "label_bytes",
    "read_channels",
    "read_image",
    "read_label",
    "read_named_label",
    "write_image",
    "write_label",
]

SMALL_LABEL, LABEL_BYTES = 64 * MB, 64  # of voxels that a label map may unpack to, and for each voxel of its image
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, Pillow's own choice


def read_image(path: str | Path, frame: int = 0) -> Image:
    """The grey image in a file of `IMAGE_SUFFIXES`, or in a folder with one DICOM series.

    Colour becomes luminance. Further axes of length 1 after the third are dropped; a third axis of length 1 stays. A
    row of voxels is an image of one column. Voxels without a number (NaN, minus infinity: outside of what was
    measured) count as the lowest value. Both, and that a file holds more volumes than the one read, is in the note.

    Args:
        frame: which volume, counted from 0, of a file with several.

    Raises:
        ImageError: missing, unreadable, of another format, or anything that `Image` refuses.
    """
    path = Path(path)
    return image_of(read_raw(path, frame), path, frame)


def read_channels(path: str | Path) -> Image:
    """As `read_image`, with every volume of a file of several as a channel of one image.

    Raises:
        ImageError: as `read_image`.
    """
    path = Path(path)
    first, *further = (read_image(path, frame) for frame in range(read_raw(path).frames))
    return replace(first, further=tuple(further)) if further else first


def image_of(raw: Raw, path: Path, frame: int = 0) -> Image:
    """As `read_image`, of what was read there."""
    try:
        if raw.segments:
            raise ImageError("3D Slicer's segmentation is a label: put it under labels/final, named as its image")
        array, outside = _with_numbers(_at_most_3d(_luminance(raw)))
        notes = [raw.note, outside]
        if raw.frames > 1 and not path.is_dir():
            notes.append(f"it holds {raw.frames} volumes, and number {frame} of 0 to {raw.frames - 1} is taken")
        return Image(array, raw.affine, raw.header, raw.others, "; ".join(filter(None, notes)), raw.planes)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def read_label(path: str | Path, like: Image | None = None) -> np.ndarray:
    """The label map in a file, uint8 or uint16, in the file's array axes or in those of `like`.

    A label whose axes run in another order or direction than the image's is turned by whole axes; it may lie where any
    reading of either header puts it. A 2-D image takes the one-slice volume that viewers make of it, wherever that
    volume claims to lie. 3D Slicer's segmentations, which are cropped to what they show, are brought to the image's
    grid; where its segments overlap the smaller one is kept.

    Raises:
        ImageError: missing or unreadable, not whole numbers from 0 to 65535, or on another grid than `like`.
    """
    return read_named_label(path, like)[0]


def read_named_label(path: str | Path, like: Image | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """As `read_label`, with {value: structure} of what it shows and the file itself names; empty for most formats."""
    path = Path(path)
    if like is not None and path.is_file() and (seg := _segmentation(path)) is not None:
        label, values = read_seg(seg, like)
        return label, {value: name for name, value in values.items()}
    with at_most(max(SMALL_LABEL, like.array.size * LABEL_BYTES)) if like is not None else nullcontext():
        raw = read_raw(path)
    try:
        if raw.frames > 1:
            raise ImageError(f"a label must be one volume, got {raw.frames}: export one of them")
        label, names = segments_of(raw) if raw.segments else (_at_most_3d(_single_channel(raw)), raw.names)
        label = whole_labels(label)
        if like is not None:
            own = [like.affine, *like.others, *([upright(like.affine)] if like.array.ndim == 3 else [])]
            readings = [(image, its) for image in own for its in (raw.affine, *raw.others)]
            label = on_grid_of(like.array.shape, label, readings, cropped=bool(raw.segments))
        shown = set(np.unique(label).tolist()) - {0} if names else set()
        return label, {value: name for value, name in names.items() if value in shown}
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def write_image(path: str | Path, image: Image) -> None:
    """Write an image as gzipped NIfTI, atomically; its affine is rounded to NIfTI's 32-bit numbers."""
    write_atomically(Path(path), compressed_nifti_bytes(image.array, image.affine, image.nifti_header))


def write_label(path: str | Path, mask: np.ndarray, like: Image) -> None:
    """Write a label map on the grid of `like`, atomically; see `label_bytes`."""
    path = Path(path)
    write_atomically(path, label_bytes(path, mask, like))


def label_bytes(path: Path, mask: np.ndarray, like: Image, level: int = 6) -> bytes:
    """A label map on the grid of `like` as NIfTI, NRRD or (2-D only) PNG by the path's suffix.

    The affine read back equals that of `like` bit for bit, and NIfTI repeats the header of a NIfTI image. Only NIfTI
    written for an image of another format rounds it, since NIfTI holds 32-bit numbers: use NRRD for those.

    Args:
        mask: bool or whole numbers from 0 to 65535, of the image's shape; stored as uint8 where that is enough.
        level: how hard gzip tries, 1 to 9.

    Raises:
        ImageError: another shape or suffix, or values that are no labels.
    """
    mask = np.asarray(mask)
    if mask.dtype != np.uint8:  # which needs no look
        mask = whole_labels(mask)
    if mask.shape != like.array.shape:
        raise ImageError(f"{path.name}: a label must have its image's shape {like.array.shape}, got {mask.shape}")
    suffix = suffix_of(path, LABEL_SUFFIXES)
    if suffix == ".nii.gz":
        return compressed_nifti_bytes(mask, like.affine, like.nifti_header, level)
    return WRITERS[suffix](mask, like.affine, like.nifti_header)


def _segmentation(path: Path) -> Dataset | None:
    """A file as DICOM SEG, if it is one."""
    if not path.name.lower().endswith(DICOM_SUFFIXES) or not is_seg(read_header(path)):
        return None
    return read_dataset(path)


def _at_most_3d(array: np.ndarray) -> np.ndarray:
    if array.ndim == 1:
        return array[:, None]
    if any(size != 1 for size in array.shape[3:]):
        raise ImageError(f"allowed are 2-D and 3-D, got {array.ndim}-D of shape {array.shape}: export one volume")
    return array.reshape(array.shape[:3])


def _with_numbers(array: np.ndarray) -> tuple[np.ndarray, str]:
    """The grey values without NaN and minus infinity, and what a person should know of that."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array, ""
    outside = np.isnan(array) | np.isneginf(array)
    if outside.all() or not np.isfinite(array[~outside]).all():
        return array, ""
    amount = f"{outside.mean():.0%}" if outside.mean() >= 0.01 else f"{np.count_nonzero(outside)}"
    note = f"{amount} of its voxels are no numbers (NaN) and count as its lowest value"
    return np.where(outside, array[~outside].min(), array).astype(array.dtype), note


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
