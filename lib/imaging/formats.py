"""Which library reads and writes which file format, and what each says about axes and place.

Everything leaves here in one form, `Raw`: axes (i, j[, k]) with i the file's fastest, affine from voxel indices to
RAS mm. NIfTI goes through nibabel, NRRD through pynrrd, DICOM through `lib.imaging.dicom`, pictures through Pillow.
NRRD does not pass through ITK, because ITK splits each axis into spacing and direction, and their product is not always
the number that the file holds.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import PIL.Image

from lib.imaging.dicom import read_instances
from lib.imaging.errors import ImageError

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
LABEL_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".png")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # and back
NRRD_SPACES = {  # to RAS; a file that names no space means LPS in practice
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
NRRD_SPATIAL_KINDS = ("domain", "space", "none", "???")


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds before anyone decided whether it is an image or a label.

    Attributes:
        array: (I, J) or (I, J, K), with colour channels as a further last axis where `channels` is not 0.
        affine: (4, 4) float64, voxel indices to RAS mm.
        header: the header of a NIfTI file.
        channels: number of colour channels, 0 for a scalar image.
        palette: (N, 3) colours of the indices in `array`, for a palette picture.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nibabel.Nifti1Header | None = None
    channels: int = 0
    palette: np.ndarray | None = None


def read_raw(path: Path) -> Raw:
    """Read a file of `IMAGE_SUFFIXES`, or a folder that holds one DICOM series. Raises ImageError."""
    if not path.exists():
        raise ImageError(f"{path.name}: no such file or folder: check the study list")
    reader = _read_series if path.is_dir() else _READERS[suffix_of(path, IMAGE_SUFFIXES)]
    try:
        return reader(path)
    except ImageError:
        raise
    except Exception as error:  # each library has its own errors for a torn or mislabelled file
        raise ImageError(f"{path.name}: cannot be read ({error}): is the file whole, and its suffix right?") from error


def suffix_of(path: Path, allowed: tuple[str, ...]) -> str:
    """The one of the allowed suffixes that a file name ends in, without regard to case. Raises ImageError."""
    for suffix in allowed:
        if path.name.lower().endswith(suffix):
            return suffix
    raise ImageError(f"{path.name}: allowed are files ending in {', '.join(allowed)}: convert it to one of these")


def nifti_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A NIfTI file; with the image's own header, units and both forms stay as they are, bit for bit."""
    if header is None or not np.array_equal(header.get_best_affine(), affine):
        file: Any = nibabel.Nifti1Image(mask, affine)
        for form in (file.set_sform, file.set_qform):  # viewers differ in which of the two they prefer
            form(affine, code="scanner")
        file.header.set_xyzt_units("mm")
        return bytes(file.to_bytes())
    kind: Any = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    header = header.copy()
    header.extensions.clear()  # whatever they say of the image, it is not true of the label
    header.set_data_dtype(mask.dtype)
    header["cal_min"] = header["cal_max"] = 0
    return bytes(kind(mask, None, header).to_bytes())


def compressed_nifti_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """As `nifti_bytes`, gzipped without a time stamp: equal labels give equal files."""
    return gzip.compress(nifti_bytes(mask, affine, header), compresslevel=6, mtime=0)


def nrrd_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A gzipped NRRD file in LPS, the space that every reader knows; 2-D as one slice, for ITK places volumes only."""
    lps = LPS_TO_RAS @ affine
    mask = mask.reshape(*mask.shape, *[1] * (3 - mask.ndim))
    fields = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * mask.ndim,
        "encoding": "gzip",
    }
    buffer = io.BytesIO()
    nrrd.write(buffer, mask, fields, index_order="F", compression_level=6)
    return buffer.getvalue()


def png_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A grey PNG of a 2-D label, 8 or 16 bits."""
    if mask.ndim != 2:
        raise ImageError(f"PNG holds 2-D labels, got one of shape {mask.shape}: write .nii.gz or .nrrd")
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(mask.T)).save(buffer, format="PNG")
    return buffer.getvalue()


WRITERS: dict[str, Callable[[np.ndarray, np.ndarray, nibabel.Nifti1Header | None], bytes]] = {
    ".nii": nifti_bytes,
    ".nii.gz": compressed_nifti_bytes,
    ".nrrd": nrrd_bytes,
    ".png": png_bytes,
}


def _read_nifti(path: Path) -> Raw:
    file: Any = nibabel.load(path)
    if not isinstance(file, nibabel.Nifti1Pair):
        raise ImageError(f"{path.name}: {type(file).__name__} inside a file named NIfTI: convert it to NIfTI")
    array = np.asanyarray(file.dataobj)
    if array.dtype.names:  # NIfTI's RGB types
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
        return Raw(array, file.affine, file.header, channels=array.shape[-1])
    return Raw(array, file.affine, file.header)


def _read_nrrd(path: Path) -> Raw:
    array, header = nrrd.read(str(path), index_order="F")
    in_space = _nrrd_axes_in_space(header, array.ndim)
    others = np.flatnonzero(~in_space).tolist()
    if len(others) > 1:
        raise ImageError(f"{path.name}: allowed are scalar or colour images, got axes of kinds {header.get('kinds')}")
    channels = array.shape[others[0]] if others else 0
    array = np.moveaxis(array, others, [-1] * len(others))
    return Raw(array, _nrrd_affine(header, in_space, path), channels=channels)


def _nrrd_axes_in_space(header: dict[str, Any], count: int) -> np.ndarray:
    """(count,) bool: which array axes lie in space; the others hold colours or components."""
    if "space directions" in header:
        return ~np.isnan(np.asarray(header["space directions"], float)).any(axis=1)
    return np.array([kind in NRRD_SPATIAL_KINDS for kind in header.get("kinds", ["domain"] * count)])


def _nrrd_affine(header: dict[str, Any], in_space: np.ndarray, path: Path) -> np.ndarray:
    space = str(header.get("space", "lps")).lower()
    if space not in NRRD_SPACES:
        raise ImageError(f"{path.name}: NRRD space must be one of {list(NRRD_SPACES)}, got {space!r}: convert the file")
    affine = np.eye(4)
    if "space directions" in header:
        columns = np.asarray(header["space directions"], float)[in_space].T
        affine[: columns.shape[0], : columns.shape[1]] = columns
    elif "spacings" in header:
        spacings = np.asarray(header["spacings"], float)[in_space]
        affine[range(len(spacings)), range(len(spacings))] = np.where(np.isnan(spacings), 1.0, spacings)
    if "space origin" in header:
        origin = np.asarray(header["space origin"], float)
        affine[: len(origin), 3] = origin
    return NRRD_SPACES[space] @ affine


def _read_picture(path: Path) -> Raw:
    with PIL.Image.open(path) as picture:
        if (count := getattr(picture, "n_frames", 1)) > 1:
            raise ImageError(f"{path.name}: allowed is one picture a file, got {count}: split them")
        # ITK, and with it the viewers, give a picture the identity in LPS for want of a place in a patient.
        if picture.mode == "P":
            colours = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(colours)] = colours
            return Raw(np.asarray(picture).T, LPS_TO_RAS, palette=palette)
        if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
            return Raw(np.asarray(picture).T, LPS_TO_RAS)
        return Raw(np.asarray(picture.convert("RGB")).swapaxes(0, 1), LPS_TO_RAS, channels=3)


def _read_series(folder: Path) -> Raw:
    return _from_instances([path for path in sorted(folder.iterdir()) if path.is_file() and _is_dicom(path)])


def _is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its suffix or by its first bytes."""
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_dicom(path: Path) -> Raw:
    return _from_instances([path])


def _from_instances(files: list[Path]) -> Raw:
    array, lps, channels = read_instances(files)
    return Raw(array, LPS_TO_RAS @ lps, channels=channels)


_READERS: dict[str, Callable[[Path], Raw]] = {
    **dict.fromkeys((".nii", ".nii.gz"), _read_nifti),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _read_picture),
    ".nrrd": _read_nrrd,
    ".dcm": _read_dicom,
}
