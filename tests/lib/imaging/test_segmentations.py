"""3D Slicer's segmentations are read by their headers: extent, layers, names."""

import nibabel
import nrrd
import numpy as np
import pytest

from lib.imaging.images import Image, ImageError, read_image, read_label, read_named_label
from tests.samples import AFFINE, organ_volume, segmentation

SHAPE = (24, 20, 8)
HEADER = {
    "space": "right-anterior-superior",
    "space directions": AFFINE[:3, :3].T,
    "space origin": AFFINE[:3, 3],
    "kinds": ["domain"] * 3,
}


@pytest.fixture
def image():
    return Image(organ_volume(0, SHAPE)[0], AFFINE)


def layered(path, layers, segments, directions=True):
    """Segments (name, value, layer) in layers (L, I, J, K)."""
    header = {**HEADER, "kinds": ["list"] + ["domain"] * 3}
    header["space directions"] = np.vstack([np.full(3, np.nan), AFFINE[:3, :3].T])
    for number, (name, value, layer) in enumerate(segments):
        header |= {f"Segment{number}_ID": f"S{number}", f"Segment{number}_Name": name}
        if value is not None:
            header |= {f"Segment{number}_LabelValue": str(value), f"Segment{number}_Layer": str(layer)}
    nrrd.write(str(path), np.stack(layers).astype(np.uint8), header, index_order="F")
    return path


def test_a_segmentation_that_is_cropped_to_its_content_lies_where_it_was_drawn(tmp_path, image):
    mask = organ_volume(1, SHAPE)[1]
    label, names = read_named_label(segmentation(tmp_path / "a.seg.nrrd", mask, AFFINE), image)
    np.testing.assert_array_equal(label, mask * 4)
    assert names == {4: "Kidney"}


def test_a_segmentation_is_known_by_its_header_whatever_its_file_is_called(tmp_path, image):
    mask = organ_volume(1, SHAPE)[1]
    path = segmentation(tmp_path / "a.nrrd", mask, AFFINE)
    np.testing.assert_array_equal(read_label(path, image), mask * 4)
    with pytest.raises(ImageError, match="segmentation is a label"):
        read_image(path)


def test_segments_of_several_layers_are_told_apart_and_the_smaller_one_is_kept_where_they_overlap(tmp_path, image):
    organ = organ_volume(1, SHAPE)[1]
    lesion = np.zeros_like(organ)
    lesion[11:13, 9:11, 4] = 1
    other = np.zeros_like(organ)
    other[0, 0, 0] = 2
    path = layered(
        tmp_path / "a.seg.nrrd", [organ + other, lesion], [("Organ", 1, 0), ("Lesion", 1, 1), ("Other", 2, 0)]
    )
    label, names = read_named_label(path, image)
    assert names == {1: "Organ", 2: "Lesion", 3: "Other"}
    np.testing.assert_array_equal(label == 2, lesion == 1)
    np.testing.assert_array_equal(label == 1, (organ == 1) & (lesion == 0))
    assert label[0, 0, 0] == 3


def test_older_segmentations_have_a_layer_for_each_segment_and_no_values(tmp_path, image):
    one, two = organ_volume(1, SHAPE)[1], np.zeros(SHAPE, np.uint8)
    two[:2] = 1
    path = layered(tmp_path / "a.seg.nrrd", [one, two], [("One", None, None), ("Two", None, None)])
    label, names = read_named_label(path, image)
    assert names == {1: "One", 2: "Two"}
    np.testing.assert_array_equal(label == 1, one == 1)
    np.testing.assert_array_equal(label == 2, two == 1)


def test_segments_of_one_name_are_told_apart(tmp_path, image):
    one = np.zeros(SHAPE, np.uint8)
    one[:2], one[3:5] = 1, 2
    path = layered(tmp_path / "a.seg.nrrd", [one, one * 0], [("Node", 1, 0), ("Node", 2, 0)])
    assert read_named_label(path, image)[1] == {1: "Node", 2: "Node 2"}


def test_a_segmentation_beside_its_image_is_refused_and_one_that_sticks_out_says_how_far(tmp_path, image):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    moved = AFFINE.copy()
    moved[:3, 3] -= 2 * AFFINE[:3, 0]
    with pytest.raises(ImageError, match="4 voxels outside it"):
        read_label(segmentation(tmp_path / "a.seg.nrrd", mask, moved), image)
    moved[:3, 3] += 0.4 * AFFINE[:3, 0]
    with pytest.raises(ImageError, match="mm away"):
        read_label(segmentation(tmp_path / "b.seg.nrrd", mask, moved), image)


def test_a_segmentation_that_is_no_labelmap_is_refused_in_its_own_words(tmp_path, image):
    header = {**HEADER, "Segment0_ID": "S", "Segmentation_SourceRepresentation": "Fractional labelmap"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), organ_volume(1, SHAPE)[1], header, index_order="F")
    with pytest.raises(ImageError, match="binary labelmaps, got 'Fractional labelmap'"):
        read_label(tmp_path / "a.seg.nrrd", image)


def test_a_segmentation_of_a_picture_is_a_flat_label(tmp_path):
    flat = Image(organ_volume(0, SHAPE)[0][:, :, 4], np.diag([-1.0, -1.0, 1.0, 1.0]))
    mask = organ_volume(0, SHAPE)[1][:, :, 4:5]
    path = segmentation(tmp_path / "a.seg.nrrd", mask, np.diag([-1.0, -1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(read_label(path, flat), mask[:, :, 0] * 4)


@pytest.mark.parametrize("name", ["Rückenmark", "肝脏", "Lésion (gauche)"])
def test_names_in_any_language_stay_as_they_are(tmp_path, image, name):
    mask = organ_volume(1, SHAPE)[1]
    path = segmentation(tmp_path / "a.seg.nrrd", mask, AFFINE, name="NAME")
    for encoding in ("utf-8", "latin-1") if name.isascii() or max(name) < "\u0100" else ("utf-8",):
        written = path.read_bytes().replace(b"NAME", name.encode(encoding))
        (tmp_path / "b.seg.nrrd").write_bytes(written)
        label, names = read_named_label(tmp_path / "b.seg.nrrd", image)
        assert names == {4: name}
        np.testing.assert_array_equal(label, mask * 4)


TABLE = b"""<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>
<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0"><![CDATA[???]]></Label>
<Label Key="1" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[kidney_left]]></Label>
<Label Key="5" Red="0" Green="1" Blue="0" Alpha="1"><![CDATA[liver]]></Label>
<Label Key="9" Red="0" Green="0" Blue="1" Alpha="1"><![CDATA[stomach]]></Label>
</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"""


def with_extension(path, content, code=0):
    label = np.zeros(SHAPE, np.uint8)
    label[:2], label[5:7] = 1, 5
    file = nibabel.Nifti1Image(label, AFFINE)
    file.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(file, path)
    return path


@pytest.mark.parametrize("code", [0, 30], ids=["TotalSegmentator", "Connectome Workbench"])
def test_a_label_with_a_table_in_its_header_names_what_it_shows(tmp_path, image, code):
    label, names = read_named_label(with_extension(tmp_path / "a.nii.gz", TABLE, code), image)
    assert names == {1: "kidney_left", 5: "liver"}
    assert np.unique(label).tolist() == [0, 1, 5]


@pytest.mark.parametrize("content", [TABLE[:200], b"<!DOCTYPE x [<!ENTITY a 'b'>]><LabelTable/>", b"words", b""])
def test_a_table_that_cannot_be_read_says_nothing(tmp_path, image, content):
    assert read_named_label(with_extension(tmp_path / "a.nii.gz", content), image)[1] == {}
