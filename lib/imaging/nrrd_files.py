"""NRRD files, and the segmentations that 3D Slicer keeps in them: read and written by pynrrd.

NRRD does not pass through ITK, because ITK splits each axis into spacing and direction, and their product is not always
the number that the file holds. Only where a file leaves open what its directions mean, ITK decides.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np

from lib.imaging.detached import data_file, read_nrrd_header
from lib.imaging.errors import ImageError
from lib.imaging.raw import LPS_TO_RAS, Raw, Segment, place_of
from lib.imaging.sizes import check_size, inflated

ITK_IO = "NrrdImageIO"
SPACES = {  # to RAS; a file that names no space means LPS in practice
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
WITH_TIME = {"lpst": "lps", "rast": "ras", "last": "las"}
SPATIAL_KINDS = ("domain", "space", "none", "???")
UNPACK: dict[str, Any] = {"gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
LARGEST_NUMBER = 8  # bytes
MOST_LINES = 10_000
SERIES_KINDS = ("list", "time")  # an axis of volumes; every other kind is one of colours or components


def read_nrrd(path: Path, frame: int = 0) -> Raw:
    """One volume of a NRRD file, or a segmentation with its layers last. Raises ImageError, and what pynrrd raises."""
    array, header = _read(path)
    in_space = _axes_in_space(header, array.ndim)
    times = np.flatnonzero(in_space)[3:]  # ITK keeps volumes along a fourth axis of space
    in_space[times] = False
    others = np.flatnonzero(~in_space).tolist()
    if len(others) > 1:
        raise ImageError(f"{path.name}: allowed are scalar or colour images, got axes of kinds {header.get('kinds')}")
    array = np.moveaxis(array, others, [-1] * len(others))
    place = place_of(path, ITK_IO, _affine(header, in_space, path), array.shape[: int(in_space.sum())])
    common: dict[str, Any] = {"others": place.others, "note": place.note}
    if segments := _segments(header, path):
        return Raw(array, place.affine, channels=array.shape[-1] if others else 0, segments=segments, **common)
    if len(times) or (others and str(header.get("kinds", ["?"] * array.ndim)[others[0]]).lower() in SERIES_KINDS):
        count = array.shape[-1]
        if not 0 <= frame < count:
            raise ImageError(f"{path.name}: frame must be 0 to {count - 1}, for it holds {count} volumes; got {frame}")
        return Raw(array[..., frame], place.affine, frames=count, **common)
    return Raw(array, place.affine, channels=array.shape[-1] if others else 0, **common)


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """What pynrrd reads of a file, which would unpack all that there is; here no more than the header tells of."""
    header, size = read_nrrd_header(path)
    data_name, encoding = data_file(header), str(header.get("encoding"))
    source = path if data_name is None else path.parent / data_name  # `companions` let it through
    most = check_size(path, [int(side) for side in header["sizes"]], LARGEST_NUMBER, [source])
    skipped = int(header.get("lineskip", header.get("line skip", 0)))
    if skipped > MOST_LINES:
        raise ImageError(f"{path.name}: {MOST_LINES} lines may be skipped, got {skipped}: is the file whole?")
    with source.open("rb") as file:
        file.seek(size if data_name is None else 0)
        if encoding not in UNPACK:
            attached = {key: value for key, value in header.items() if key not in ("datafile", "data file")}
            return nrrd.read_data(attached, file, None, "F"), header
        for _ in range(skipped):
            file.readline()
        if int(header.get("byteskip", header.get("byte skip", 0))) > 0:
            raise ImageError(f"{path.name}: packed voxels must be skipped by lines: save it again without byte skip")
        data = io.BytesIO(inflated(UNPACK[encoding](file), most, path))
    fields = ("type", "dimension", "sizes", "endian", "block size")
    plain = {**{key: header[key] for key in fields if key in header}, "encoding": "raw", "byte skip": -1}
    return nrrd.read_data(plain, data, None, "F"), header


def nrrd_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A gzipped NRRD file in LPS, the space that every reader knows; 2-D as one slice, for ITK places volumes only."""
    mask = mask.reshape(*mask.shape, *[1] * (3 - mask.ndim))
    buffer = io.BytesIO()
    nrrd.write(buffer, mask, _fields(affine), index_order="F", compression_level=6)
    return buffer.getvalue()


def nrrd_head(shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    """What comes before the gzipped voxels of a uint8 label in such a file."""
    head, _, _ = nrrd_bytes(np.zeros((1, 1, 1), np.uint8), affine, None).partition(b"\n\n")
    sizes = " ".join(map(str, (*shape, 1)[:3]))
    return head.replace(b"sizes: 1 1 1", f"sizes: {sizes}".encode()) + b"\n\n"


def _fields(affine: np.ndarray) -> dict[str, Any]:
    lps = LPS_TO_RAS @ affine
    return {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }


def _axes_in_space(header: dict[str, Any], count: int) -> np.ndarray:
    """(count,) bool: which array axes lie in space; the others hold volumes, colours or components."""
    if "space directions" in header:
        return ~np.isnan(np.asarray(header["space directions"], float)).any(axis=1)
    return np.array([kind in SPATIAL_KINDS for kind in header.get("kinds", ["domain"] * count)])


def _affine(header: dict[str, Any], in_space: np.ndarray, path: Path) -> np.ndarray:
    space = str(header.get("space", "lps")).lower().removesuffix("-time")
    space = WITH_TIME.get(space, space)
    if space not in SPACES:
        raise ImageError(f"{path.name}: NRRD space must be one of {list(SPACES)}, got {space!r}: convert the file")
    affine = np.eye(4)
    if "space directions" in header:
        columns = np.asarray(header["space directions"], float)[in_space].T
        affine[: min(len(columns), 3), : columns.shape[1]] = columns[:3]
    elif "spacings" in header:
        spacings = np.asarray(header["spacings"], float)[in_space]
        affine[range(len(spacings)), range(len(spacings))] = np.where(np.isnan(spacings), 1.0, spacings)
    if "space origin" in header:
        origin = np.asarray(header["space origin"], float)[:3]
        affine[: len(origin), 3] = origin
    return SPACES[space] @ affine


def _segments(header: dict[str, Any], path: Path) -> tuple[Segment, ...]:
    """What 3D Slicer wrote of its segments; before version 5 each had a layer of its own and no value."""
    numbers = sorted({int(match[1]) for key in header if (match := re.fullmatch(r"Segment(\d+)_(ID|Name)", key))})
    kinds = (header.get(f"Segmentation_{which}Representation") for which in ("Source", "Master"))
    kind = str(next(filter(None, kinds), "binary"))
    if numbers and "binary" not in kind.lower():
        raise ImageError(f"{path.name}: segments must be binary labelmaps, got {kind!r}: export them as labelmap")
    return tuple(
        Segment(
            str(header.get(f"Segment{n}_Name") or header.get(f"Segment{n}_ID")).strip(),
            int(header.get(f"Segment{n}_LabelValue", 1)),
            int(header.get(f"Segment{n}_Layer", n)),
        )
        for n in numbers
    )
