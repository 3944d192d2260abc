"""NIfTI files, single or in pairs: read by nibabel, written with the image's own header."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np

from lib.imaging.errors import ImageError
from lib.imaging.raw import Raw, place_of
from lib.imaging.sizes import MB, check_size

ITK_IO = "NiftiImageIO"
GZIP = b"\x1f\x8b"
MISNAMED = "it is {}gzipped, whatever its name says, and not every program will open it: rename it"
VERSION_1, VERSION_2 = 348, 540  # bytes of a header, which it begins with
LONGEST_EXTENSIONS = 16 * MB


def read_nifti(path: Path, frame: int = 0) -> Raw:
    """One volume of a NIfTI file, or of a pair by its .hdr. Raises ImageError, and what nibabel raises."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    if packed == path.name.lower().endswith(".gz"):
        return _read(path, frame)
    with tempfile.TemporaryDirectory() as there:  # nibabel goes by the name, ITK by the bytes
        link = Path(there) / (f"{path.name}.gz" if packed else path.name[: -len(".gz")])
        link.symlink_to(path.resolve())
        try:
            raw = _read(link, frame)
        except Exception as error:
            words = str(error).replace(str(link), path.name).replace(link.name, path.name)
            raise ImageError(
                words if isinstance(error, ImageError) else f"{path.name}: cannot be read ({words})"
            ) from error
    return replace(raw, note="; ".join(filter(None, [raw.note, MISNAMED.format("" if packed else "not ")])))


def _read(path: Path, frame: int) -> Raw:
    _check_extensions(path)
    file: Any = nibabel.load(path)
    if not isinstance(file, nibabel.Nifti1Pair):
        raise ImageError(f"{path.name}: {type(file).__name__} inside a file named NIfTI: convert it to NIfTI")
    spatial, further = file.shape[:3], [size for size in file.shape[3:] if size != 1]
    proxy: Any = file.dataobj
    itemsize = file.get_data_dtype().itemsize if (proxy.slope, proxy.inter) == (1, 0) else 8
    voxels = Path(str(file.file_map["image"].filename))
    check_size(path, spatial, itemsize, [voxels])  # of a series one volume at a time is read
    place = place_of(path, ITK_IO, file.affine, spatial)
    common: dict[str, Any] = {"others": place.others, "header": _header_as_stored(file), "note": place.note}
    common["names"] = _label_table(file.header)
    if file.get_data_dtype().names:  # NIfTI's RGB types
        colours = _voxels(file)
        array = np.stack([colours[name] for name in colours.dtype.names or ()], axis=-1)
        return Raw(array, place.affine, channels=array.shape[-1], **common)
    if not further:
        return Raw(_voxels(file).reshape(spatial), place.affine, **common)
    if len(further) > 1 or file.shape[3] == 1:  # the fifth axis holds components
        raise ImageError(
            f"{path.name}: allowed are volumes and series of them, got {len(file.shape)}-D of shape {file.shape} "
            "(several channels?): export one volume"
        )
    return Raw(_volume(file, frame, further[0], path), place.affine, frames=further[0], **common)


def nifti_bytes(mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None) -> bytes:
    """A NIfTI file; with the image's own header, units and both forms stay as they are, bit for bit."""
    if header is None:
        file: Any = nibabel.Nifti1Image(mask, affine)
        for form in (file.set_sform, file.set_qform):  # viewers differ in which of the two they prefer
            form(affine, code="scanner")
        file.header.set_xyzt_units("mm")
        return bytes(file.to_bytes())
    return nifti_head(mask.shape, mask.dtype, header) + _in_file_order(mask, header).tobytes(order="F")


def nifti_head(shape: tuple[int, ...], kind: np.dtype, header: nibabel.Nifti1Header) -> bytes:
    """What comes before the voxels of a label on the grid of an image with this header."""
    # Not through an image of nibabel's, which would mend what the two readers of the header already agree to misread
    own: Any = header.copy()
    own.set_data_dtype(kind)
    own.set_data_shape(shape)
    own["cal_min"] = own["cal_max"] = 0
    own["scl_slope"], own["scl_inter"] = 1, 0
    own["magic"], own["vox_offset"] = own.single_magic, own.single_vox_offset
    no_extensions = b"\0" * (own.single_vox_offset - own.sizeof_hdr)
    return bytes(own.binaryblock + no_extensions)


def compressed_nifti_bytes(
    mask: np.ndarray, affine: np.ndarray, header: nibabel.Nifti1Header | None, level: int = 6
) -> bytes:
    """As `nifti_bytes`, gzipped without a time stamp: equal labels give equal files."""
    pack = zlib.compressobj(level, wbits=31)
    if header is None:
        return pack.compress(nifti_bytes(mask, affine, None)) + pack.flush()
    head = pack.compress(nifti_head(mask.shape, mask.dtype, header))
    voxels = np.asfortranarray(_in_file_order(mask, header))
    return head + pack.compress(voxels.T.data) + pack.flush()


def _in_file_order(mask: np.ndarray, header: nibabel.Nifti1Header) -> np.ndarray:
    return mask.astype(mask.dtype.newbyteorder(header.endianness), copy=False)


def _check_extensions(path: Path) -> None:
    """Refuse a header whose extensions, which nibabel reads whole, are packed zeros. Raises ImageError."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        start = stream.read(VERSION_2)
    if len(start) < VERSION_1:
        raise ImageError(f"{path.name}: cannot be read (it ends within its header): copy it again")
    size = int.from_bytes(start[:4], "little")
    order = "<" if size in (VERSION_1, VERSION_2) else ">"
    place, form = (168, "i8") if VERSION_2 in (size, int.from_bytes(start[:4], "big")) else (108, "f4")
    offset = np.frombuffer(start[place : place + int(form[1])], order + form)
    if not len(offset) or not 0 <= offset[0] <= LONGEST_EXTENSIONS:
        raise ImageError(
            f"{path.name}: cannot be read (voxels must begin within {LONGEST_EXTENSIONS} bytes): is the file whole?"
        )


def _voxels(file: Any) -> np.ndarray:
    """All of them, in memory: a file that is mapped ends the process when somebody cuts it short."""
    array = np.asanyarray(file.dataobj)
    return np.array(array, order="K", subok=False) if isinstance(array, np.memmap) else array


def _label_table(header: Any) -> dict[int, str]:
    """{value: structure} of the table that Connectome Workbench and TotalSegmentator keep in a label's extension."""
    for extension in header.extensions:
        try:
            content = bytes(extension.content)
            if b"<LabelTable" in content and b"<!ENTITY" not in content:
                labels = ElementTree.fromstring(content).iter("Label")
                return {int(one.get("Key", "0")): name for one in labels if (name := (one.text or "").strip())}
        except (ElementTree.ParseError, TypeError, ValueError):
            continue  # an extension of another kind, or a torn one
    return {}


def _volume(file: Any, frame: int, count: int, path: Path) -> np.ndarray:
    if not 0 <= frame < count:
        raise ImageError(f"{path.name}: frame must be 0 to {count - 1}, for it holds {count} volumes; got {frame}")
    axis = next(axis for axis, size in enumerate(file.shape) if axis > 2 and size != 1)
    wanted = tuple(frame if n == axis else slice(None) for n in range(len(file.shape)))
    return np.asanyarray(file.dataobj[wanted]).reshape(file.shape[:3])


def _header_as_stored(file: Any) -> nibabel.Nifti1Header:
    """The header before nibabel mended it: a label that repeats it is misread in the same way as its image."""
    kind = type(file.header)
    where = file.file_map["header" if "header" in file.file_map else "image"]
    with where.get_prepare_fileobj("rb") as stream:
        return kind(stream.read(kind.template_dtype.itemsize), check=False)
