"""Which library reads and writes which file format.

Everything leaves here in one form, `Raw`: axes (i, j[, k]) with i the file's fastest, affine from voxel indices to
RAS mm. NIfTI goes through nibabel, NRRD through pynrrd, DICOM through `lib.imaging.dicom`, pictures through Pillow, and
the rest (MetaImage, Analyze) through SimpleITK.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image

from lib.imaging.detached import META_HEADER, companions
from lib.imaging.dicom import read_instances
from lib.imaging.errors import ImageError
from lib.imaging.nifti import compressed_nifti_bytes, nifti_bytes, nifti_head, read_nifti
from lib.imaging.nrrd_files import nrrd_bytes, nrrd_head, read_nrrd
from lib.imaging.raw import (
    CONTRADICTION,
    LPS_TO_RAS,
    SAME_PLACE,
    Raw,
    affine_of,
    itk_header,
    picture_affine,
    sitk,
    voxels_apart,
)
from lib.imaging.sizes import check_size

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DETACHED = (".hdr", ".nhdr", ".mhd")  # headers whose voxels lie in a file beside them
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", *DETACHED, *PICTURES, ".dcm")
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
LABEL_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".png")  # that are written


def read_raw(path: Path, frame: int = 0) -> Raw:
    """Read a file of `IMAGE_SUFFIXES`, or a folder that holds one DICOM series.

    Args:
        frame: which volume, of a file with several.

    Raises:
        ImageError: missing, broken, of another format, or without that frame.
    """
    if not path.is_dir() and not path.is_file():  # a pipe would never end
        raise ImageError(f"{path.name}: no such file or folder: check the study list")
    reader = _read_series if path.is_dir() else _READERS[suffix_of(path, IMAGE_SUFFIXES)]
    try:
        if missing := [other.name for other in companions(path) if not other.exists()] if path.is_file() else []:
            raise ImageError(f"{path.name}: its voxels are missing: copy {', '.join(missing[:3])} beside it")
        raw = reader(path, frame)
    except ImageError:
        raise
    except Exception as error:  # each library has its own errors for a torn or mislabelled file
        raise ImageError(f"{path.name}: cannot be read ({error}): is the file whole, and its suffix right?") from error
    if frame >= raw.frames:
        raise ImageError(f"{path.name}: frame must be 0, for it holds one volume; got {frame}")
    return raw


def suffix_of(path: Path, allowed: tuple[str, ...]) -> str:
    """The one of the allowed suffixes that a file name ends in, without regard to case. Raises ImageError."""
    for suffix in allowed:
        if path.name.lower().endswith(suffix):
            return suffix
    raise ImageError(f"{path.name}: allowed are files ending in {', '.join(allowed)}: convert it to one of these")


def label_head(shape: tuple[int, ...], affine: np.ndarray, header: nibabel.Nifti1Header | None) -> tuple[str, bytes]:
    """What comes before the voxels in a label file on a grid, for a program that writes them itself.

    The voxels follow as uint8, the first axis the fastest. NIfTI for an image that was NIfTI, so that units and both
    forms stay: head and voxels are gzipped together. Else NRRD, which holds 64-bit affines: only the voxels are.

    Returns:
        Suffix of the file, and its head.
    """
    if header is not None:
        return ".nii.gz", nifti_head(shape, np.dtype("u1"), header)
    return ".nrrd", nrrd_head(shape, affine)


def png_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A grey PNG of a 2-D label, 8 or 16 bits."""
    if mask.ndim != 2:
        raise ImageError(f"PNG holds 2-D labels, got one of shape {mask.shape}: write .nii.gz or .nrrd")
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(mask.T)).save(buffer, format="PNG")
    return buffer.getvalue()


ITK_SIZES: dict[int, int] = {sitk.sitkUInt8: 1, sitk.sitkInt8: 1, sitk.sitkUInt16: 2, sitk.sitkInt16: 2,
                             sitk.sitkUInt32: 4, sitk.sitkInt32: 4, sitk.sitkFloat32: 4}  # fmt: skip

WRITERS: dict[str, Callable[[np.ndarray, np.ndarray, nibabel.Nifti1Header | None], bytes]] = {
    ".nii": nifti_bytes,
    ".nii.gz": compressed_nifti_bytes,
    ".nrrd": nrrd_bytes,
    ".png": png_bytes,
}


def _read_pair(path: Path, frame: int = 0) -> Raw:
    """A .hdr: half of a NIfTI pair, or Analyze, of which ITK does not read what SPM keeps of its place beside it."""
    file: Any = nibabel.load(path)
    if isinstance(file, nibabel.Nifti1Pair):
        return read_nifti(path, frame)
    raw = _read_itk(path, frame)
    apart = voxels_apart(raw.affine, file.affine, raw.array.shape[:3]) if raw.array.ndim == 3 else 0.0
    if apart <= SAME_PLACE:
        return raw
    return replace(raw, others=(file.affine,), note=CONTRADICTION.format(apart))


def _read_itk(path: Path, frame: int = 0) -> Raw:
    parts = [path, *companions(path)]  # first: it also refuses headers that ITK does not survive
    reader = itk_header(path, "MetaImageIO" if path.name.lower().endswith(META_HEADER) else "")
    shape = [*reader.GetSize(), reader.GetNumberOfComponents()]
    check_size(path, shape, ITK_SIZES.get(reader.GetPixelID(), 8), parts)
    image = reader.Execute()
    channels, axes = image.GetNumberOfComponentsPerPixel(), image.GetDimension()
    array = sitk.GetArrayFromImage(image)  # axes from slowest to fastest, then channels
    array = array.transpose(*reversed(range(axes)), *range(axes, array.ndim))
    affine = affine_of(image)
    if affine is None:
        affine = LPS_TO_RAS @ np.diag([*image.GetSpacing(), 1.0, 1.0])
        affine[:2, 3] = LPS_TO_RAS[:2, :2] @ image.GetOrigin()
    frames = array.shape[3] if axes == 4 else 1
    if not 0 <= frame < frames:
        raise ImageError(f"{path.name}: frame must be 0 to {frames - 1}, for it holds {frames} volumes; got {frame}")
    array = array[:, :, :, frame] if axes == 4 else array
    return Raw(array, affine, channels=channels if channels > 1 else 0, frames=frames)


def _read_picture(path: Path, frame: int = 0) -> Raw:
    """A picture, or the pages of a TIFF as the slices of a volume, as microscopes write them."""
    with PIL.Image.open(path) as picture:
        count = getattr(picture, "n_frames", 1)
        check_size(path, [*picture.size, count, len(picture.getbands())], 4 if picture.mode in "IF" else 2)
        if count > 1 and picture.format != "TIFF":
            raise ImageError(f"{path.name}: allowed is one picture a file, but for TIFF, got {count}: split them")
        pages = []
        for number in range(count):
            if count > 1:
                picture.seek(number)
            pages.append(_page(picture))
    if len(forms := {(page.array.shape, page.channels, page.palette is None) for page in pages}) > 1:
        raise ImageError(f"{path.name}: the pages of a TIFF must be alike, got {len(forms)} kinds: split them")
    array = pages[0].array if count == 1 else np.stack([page.array for page in pages], axis=2)
    return replace(pages[0], array=array, affine=picture_affine(path))


def _page(picture: Any) -> Raw:
    if picture.mode == "P":
        colours = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        return Raw(np.asarray(picture).T, LPS_TO_RAS, palette=palette)
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        return Raw(np.asarray(picture).T, LPS_TO_RAS)
    return Raw(np.asarray(picture.convert("RGB")).swapaxes(0, 1), LPS_TO_RAS, channels=3)


def _read_series(folder: Path, frame: int = 0) -> Raw:
    return _from_instances([path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)], frame)


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its suffix or by its first bytes."""
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_dicom(path: Path, frame: int = 0) -> Raw:
    return _from_instances([path], frame)


def _from_instances(files: list[Path], frame: int) -> Raw:
    volume = read_instances(files, frame)
    arranged = volume.arranged
    return Raw(
        volume.array,
        LPS_TO_RAS @ arranged.affine,
        others=(LPS_TO_RAS @ arranged.upright,) if arranged.placed else (),
        channels=volume.channels,
        note=arranged.note,
        frames=arranged.volumes,
        planes=None if arranged.even else arranged.planes,
    )


_READERS: dict[str, Callable[[Path, int], Raw]] = {
    **dict.fromkeys((".nii", ".nii.gz"), read_nifti),
    **dict.fromkeys((".nrrd", ".nhdr"), read_nrrd),
    **dict.fromkeys((".mha", ".mhd"), _read_itk),
    **dict.fromkeys(PICTURES, _read_picture),
    ".hdr": _read_pair,
    ".dcm": _read_dicom,
}
