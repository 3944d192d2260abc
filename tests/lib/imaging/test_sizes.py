"""Files that would take more memory than they are worth: refused by their headers, before anything is unpacked."""

import bz2
import gzip
import struct
import tracemalloc
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image as Pillow

from lib.imaging import sizes
from lib.imaging.images import Image, ImageError, read_image, read_label
from scripts.phantoms.dicom_series import write_series

LITTLE = 32 * sizes.MB
HUGE = (2048, 1024, 1024)  # 2 GB of bytes, 4 GB of 16-bit numbers


@pytest.fixture
def memory():
    """Fails where a test took more than a little memory."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LITTLE


def zeros(size):
    """Gzipped zeros, made without having them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(sizes.MB)) for _ in range(size // sizes.MB)) + packer.flush()


def nifti_header(shape, dtype=np.int16, offset=352.0):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"] = offset
    return bytes(header.binaryblock) + bytes(4)


def nrrd_header(shape, encoding="gzip", more=""):
    sides = " ".join(map(str, shape))
    first = f"NRRD0004\ntype: short\ndimension: {len(shape)}\nsizes: {sides}\nendian: little\n"
    return f"{first}encoding: {encoding}\n{more}\n".encode()


def some_image(shape=(8, 8, 8)):
    return Image(np.arange(np.prod(shape)).reshape(shape), np.eye(4))


FAR_TOO_LARGE = {
    "shape.nii": nifti_header(HUGE) + bytes(1000),
    "shape.nii.gz": gzip.compress(nifti_header(HUGE)) + zeros(8 * sizes.MB),
    "extension.nii.gz": gzip.compress(
        nifti_header((8, 8, 8), offset=2.0**31)[:348] + b"\x01\0\0\0" + struct.pack("<ii", 2**31 - 16, 4)
    ) + zeros(64 * sizes.MB),
    "shape.nrrd": nrrd_header(HUGE) + zeros(8 * sizes.MB),
    "more.nrrd": nrrd_header((8, 8, 8)) + zeros(64 * sizes.MB),
    "more.nhdr": nrrd_header((8, 8, 8)) + zeros(64 * sizes.MB),
    "bz2.nrrd": nrrd_header((8, 8, 8), "bzip2") + bz2.compress(bytes(64 * sizes.MB)),
    "lines.nrrd": nrrd_header((8, 8, 8), "raw", "line skip: 1000000000000\n") + bytes(1024),
    "skip.nrrd": nrrd_header((8, 8, 8), "gzip", "byte skip: 8\n") + zeros(sizes.MB),
    "endless.nrrd": b"NRRD0004\n" + b"a: b\n" * 400_000,
    "shape.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 2048 1024 1024\nElementType = MET_SHORT\n"
    b"CompressedData = True\nElementDataFile = LOCAL\n" + zeros(sizes.MB),
}  # fmt: skip


@pytest.mark.parametrize("name", FAR_TOO_LARGE)
def test_what_a_header_claims_is_not_allocated(tmp_path, memory, name):
    (tmp_path / name).write_bytes(FAR_TOO_LARGE[name])
    with pytest.raises(ImageError, match=name):
        read_image(tmp_path / name)


def test_packed_zeros_are_no_image_whatever_their_shape(tmp_path, memory):
    content = gzip.compress(nifti_header((512, 512, 800)), mtime=0)  # 400 MB, which the limit would allow
    (tmp_path / "zeros.nii.gz").write_bytes(content + zeros(2 * sizes.MB))
    with pytest.raises(ImageError, match="which no image packs into"):
        read_image(tmp_path / "zeros.nii.gz")


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nrrd"])
def test_a_label_may_take_what_its_image_takes_and_not_more(tmp_path, memory, name):
    shape = (512, 512, 400)  # 200 MB
    header = gzip.compress(nifti_header(shape)) if name.endswith("gz") else nrrd_header(shape)
    (tmp_path / name).write_bytes(header + zeros(sizes.MB))
    with pytest.raises(ImageError, match="on its image's grid"):
        read_label(tmp_path / name, some_image())


def test_a_picture_of_a_billion_pixels_is_refused_by_its_size(tmp_path, memory):
    Pillow.new("L", (8, 8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.fixture
def slices(tmp_path):
    """Files of a small series."""
    write_series(tmp_path / "s", np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4), uid="1.2", patient="P",
                 modality="MR")  # fmt: skip
    return sorted((tmp_path / "s").iterdir())


@pytest.mark.parametrize("fields", [
    {"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}, {"Rows": 30000, "Columns": 30000},
    {"NumberOfFrames": -5}, {"SamplesPerPixel": 60000, "Rows": 2000, "Columns": 2000},
])  # fmt: skip
def test_a_dicom_header_cannot_claim_more_than_an_image_has(tmp_path, slices, memory, fields):
    header = pydicom.dcmread(slices[0])
    for name, value in fields.items():
        setattr(header, name, value)
    header.save_as(slices[0])
    with pytest.raises(ImageError):
        read_image(slices[0].parent)


def test_a_deflated_dicom_file_is_not_unpacked_without_end(tmp_path, slices, memory):
    header = pydicom.dcmread(slices[0])
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(slices[0])
    content = slices[0].read_bytes()
    start = content.index(b"\x02\x00\x00\x00UL\x04\x00")
    end = start + 12 + int.from_bytes(content[start + 8 : start + 12], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(sizes.MB)) for _ in range(300)) + packer.flush()
    slices[0].write_bytes(content[:end] + bomb)
    with pytest.raises(ImageError, match="unpacks to more than"):
        read_image(slices[0])
    slices[0].write_bytes(content)
    assert read_image(slices[0]).array.shape == (5, 4, 1)


def test_the_limit_can_be_changed(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(2**21).reshape(128, 128, 128)), str(tmp_path / "a.mha"))
    nibabel.save(
        nibabel.Nifti1Image(np.arange(2**21).reshape(128, 128, 128).astype(np.int32), np.eye(4)), tmp_path / "a.nii.gz"
    )
    try:
        sizes.allow(4)
        for name in ("a.mha", "a.nii.gz"):
            with pytest.raises(ImageError, match="--conf image_mb"):
                read_image(tmp_path / name)
    finally:
        sizes.allow(2048)
    for name in ("a.mha", "a.nii.gz"):
        assert read_image(tmp_path / name).array.shape == (128, 128, 128)
