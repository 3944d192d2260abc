"""A header may name the file that holds its voxels; only one that lies beside it is opened."""

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.imaging.detached import companions
from lib.imaging.images import ImageError, read_image

VOXELS = np.arange(64, dtype=np.uint8)
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n{}\n\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n{}\n"


@pytest.fixture
def secret(tmp_path):
    """A file outside the study folder that would make a picture."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "secret.bin").write_bytes(VOXELS.tobytes())
    return tmp_path / "secret.bin"


@pytest.mark.parametrize("form", [
    "data file: {}", "datafile: {}", "  data file: {}", "data file:={}", "data file:{}", "data file : {}",
    "\tdatafile:\t{}", "data file: LIST\n{}",
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
def test_no_file_elsewhere_is_read_through_a_nrrd_header(secret, name, form):
    for target in (str(secret), "../secret.bin", f"{secret.parent}/studies/../secret.bin"):
        path = secret.parent / "studies" / name
        path.write_bytes(NRRD.format(form.format(target)).encode() + bytes(64))
        with pytest.raises(ImageError, match=name):
            read_image(path)


@pytest.mark.parametrize("form", [
    "ElementDataFile = {}", "ElementDataFile : {}", " ElementDataFile = {}", "ElementDataFile={}",
    "\tElementDataFile\t:{}", "ElementDataFile = LIST\n{}", "ElementDataFile = LIST 3\n{}",
    "ElementDataFile:{}\nElementDataFile = LOCAL",
    "ElementDataFile = {}\nElementDataFile = LOCAL", "Comment = x\rElementDataFile = {}\nElementDataFile = LOCAL",
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_no_file_elsewhere_is_read_through_a_metaimage_header(secret, name, form):
    for target in (str(secret), "../secret.bin"):
        path = secret.parent / "studies" / name
        path.write_bytes(META.format(form.format(target)).encode() + bytes(64))
        with pytest.raises(ImageError, match=name):
            read_image(path)


@pytest.mark.parametrize(
    "axes", ["NDims =9999inaryData = True", "NDims = 99", "NDims : 99", "NDims=11\nNDims = 3", "NDims = -1"]
)
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_a_header_of_more_axes_than_itk_has_room_for_is_refused_and_does_not_end_the_process(tmp_path, name, axes):
    text = META.replace("NDims = 3", axes).format("ElementDataFile = LOCAL")
    (tmp_path / name).write_bytes(text.encode() + bytes(64))
    with pytest.raises(ImageError, match="NDims = 3"):
        read_image(tmp_path / name)


def test_a_header_that_hides_the_name_behind_a_megabyte_is_refused(secret):
    for name, text, line in (("a.nrrd", NRRD, "data file: {}"), ("a.mha", META, "ElementDataFile = {}")):
        path = secret.parent / "studies" / name
        hidden = "#\n" * 2**19 if name == "a.nrrd" else "Comment = x\n" * 2**17
        path.write_bytes(text.format(hidden + line.format(secret)).encode())
        with pytest.raises(ImageError, match=name):
            read_image(path)


def test_voxels_beside_their_header_are_read(tmp_path):
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "a.nhdr").write_text(NRRD.format("data file: ./a.raw"))
    (tmp_path / "a.mhd").write_text(META.format("ElementDataFile = a.raw"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.reshape(4, 4, 4)), str(tmp_path / "b.mha"), True)
    nibabel.save(nibabel.Nifti1Pair(VOXELS.reshape(4, 4, 4, order="F"), np.eye(4)), tmp_path / "c.img")
    for name in ("a.nhdr", "a.mhd", "b.mha", "c.hdr"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array.ravel(order="F"), VOXELS)
    assert companions(tmp_path / "a.nhdr") == companions(tmp_path / "a.mhd") == [tmp_path / "a.raw"]
    assert companions(tmp_path / "b.mha") == []
    (tmp_path / "a.raw").unlink()
    for name in ("a.nhdr", "a.mhd"):
        with pytest.raises(ImageError, match=r"copy a\.raw beside it"):
            read_image(tmp_path / name)
