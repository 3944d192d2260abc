"""DICOM SEG as this app writes it, judged by others: dciodvfy, dcmqi's reader, pydicom-seg and highdicom."""

import json
import re
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.seg import SegmentAlgorithmTypeValues as By

from infers.dicomseg import AUTOMATIC_SERIES, FINAL_SERIES, read_headers, read_seg, structure_code, write_seg
from lib.images import ImageError, read_image
from scripts.dicom_series import write_series

SHAPE = (20, 16, 6)
NAMES = {"liver": 1, "left_kidney": 2, "thing of ours": 5}
PROVENANCE = {"weights": "0123456789ab", "templates": ["1.2.3"], "prompts": {"liver": ["click"]}}


def oblique():
    """Voxel index to RAS: turned about two axes, with three different spacings."""
    a, b = np.radians([12, -9])
    turn = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    tilt = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) @ tilt @ np.diag([-1.5, -0.8, 4.0])
    affine[:3, 3] = 31, -12, 7
    return affine


@pytest.fixture(scope="module", params=["axial CT", "oblique MR"])
def case(request, tmp_path_factory):
    """Folder of a series, its image, and a label with three structures and an empty slice."""
    orientation, modality = request.param.split()
    affine = np.diag([-1.5, -0.8, 4.0, 1]) if orientation == "axial" else oblique()
    folder = tmp_path_factory.mktemp("series") / "1.2.3"
    array = np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16)
    write_series(folder, array, affine, uid="1.2.3", patient="P", modality=modality)
    label = np.zeros(SHAPE, np.uint8)
    label[2:9, 3:7, 1:4], label[10:12, 8:15, 2:6], label[0, 0, 5] = 1, 2, 5
    return folder, read_image(folder), label


@pytest.fixture
def written(case, tmp_path):
    folder, image, label = case
    seg = write_seg(read_headers(folder), image, label, NAMES, by=By.SEMIAUTOMATIC, provenance=PROVENANCE)
    seg.save_as(tmp_path / "seg.dcm")
    return tmp_path / "seg.dcm"


def test_it_says_what_is_segmented_by_what_and_how(written):
    seg = pydicom.dcmread(written)
    first, second, third = seg.SegmentSequence
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == list(NAMES)
    liver = first.SegmentedPropertyTypeCodeSequence[0]
    assert (liver.CodeValue, liver.CodingSchemeDesignator) == ("10200004", "SCT")
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Kidney"
    assert third.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99ONEPROMPT"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (first.SegmentAlgorithmType, algorithm.AlgorithmName) == ("SEMIAUTOMATIC", "One-Prompt")
    assert algorithm.AlgorithmVersion
    assert "weights=0123456789ab" in str(algorithm.AlgorithmParameters)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"


def test_an_automatic_mask_and_a_final_label_are_told_apart_in_a_study_list(case):
    folder, image, label = case
    final, automatic = (write_seg(read_headers(folder), image, label, NAMES, by=by) for by in (By.MANUAL, By.AUTOMATIC))
    assert (final.SeriesDescription, final.ContentLabel) == (FINAL_SERIES, "FINAL")
    assert (automatic.SeriesDescription, automatic.ContentLabel) == (AUTOMATIC_SERIES, "AUTOMATIC")
    assert final.SeriesNumber != automatic.SeriesNumber
    assert "SegmentationAlgorithmIdentificationSequence" not in final.SegmentSequence[0]


@pytest.mark.needs("dciodvfy")
def test_an_independent_validator_finds_no_error(written):
    done = subprocess.run(["dciodvfy", written], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert re.search("^Segmentation$", done.stdout + done.stderr, re.MULTILINE), "it must have known what this is"
    assert errors == []


def test_the_own_reader_gives_the_same_voxels_and_names(case, written):
    _, image, label = case
    read, names = read_seg(pydicom.dcmread(written), image)
    assert list(names) == list(NAMES)
    for name, value in names.items():
        np.testing.assert_array_equal(read == value, label == NAMES[name])


def test_highdicom_gives_the_same_voxels_by_the_instances(case, written):
    folder, _, label = case
    headers = sorted(read_headers(folder), key=lambda header: header.InstanceNumber)
    planes = highdicom.seg.segread(written).get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers],
        ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )
    for number, value in enumerate(NAMES.values()):
        np.testing.assert_array_equal(planes[..., number].transpose(2, 1, 0).astype(bool), label == value)


def test_dcmqi_gives_the_same_voxels_at_the_same_places(case, written, tmp_path):
    _, image, label = case
    tool = Path(sys.executable).with_name("segimage2itkimage")
    command = [tool, "--inputDICOM", written, "--outputDirectory", tmp_path, "--outputType", "nii"]
    subprocess.run(command, check=True, capture_output=True)
    segments = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    assert [segment[0]["SegmentLabel"] for segment in segments] == list(NAMES)
    reference = SimpleITK.GetImageFromArray(np.zeros(SHAPE[::-1], np.uint8))
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    reference.SetSpacing(spacing.tolist())
    reference.SetOrigin(lps[:3, 3].tolist())
    reference.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for number, value in enumerate(NAMES.values(), start=1):
        mask = SimpleITK.ReadImage(str(tmp_path / f"{number}.nii.gz" if (tmp_path / f"{number}.nii.gz").exists()
                                       else tmp_path / f"{number}.nii"))  # fmt: skip
        moved = SimpleITK.Resample(mask, reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(moved).T > 0, label == value)


def test_an_empty_label_and_a_series_that_is_another_are_refused(case, tmp_path):
    folder, image, label = case
    with pytest.raises(ImageError, match="is empty"):
        write_seg(read_headers(folder), image, np.zeros_like(label), NAMES, by=By.MANUAL)
    other = tmp_path / "1.2.4"
    moved = image.affine.copy()
    moved[:3, 3] += 3
    write_series(other, np.zeros(SHAPE, np.int16), moved, uid="1.2.4", patient="P", modality="MR")
    with pytest.raises(ImageError, match="none of its slices"):
        write_seg(read_headers(other), image, label, NAMES, by=By.MANUAL)
    with pytest.raises(ImageError, match="they must agree"):
        write_seg(read_headers(folder)[1:], image, label, NAMES, by=By.MANUAL)


def test_a_segmentation_of_another_place_has_nothing_on_the_image(case, written):
    _, image, _ = case
    seg = pydicom.dcmread(written)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        position.ImagePositionPatient = [float(value) + 5000 for value in position.ImagePositionPatient]
    with pytest.raises(ImageError, match="no voxel on the image"):
        read_seg(seg, image)


def test_a_broken_segmentation_is_named(case, written):
    seg = pydicom.dcmread(written)
    del seg.PixelData
    with pytest.raises(ImageError, match="cannot be read"):
        read_seg(seg, case[1])


@pytest.mark.parametrize(("name", "meaning"), [("Liver", "Liver"), ("right_lung", "Lung"), ("aorta", "Aorta")])
def test_known_structures_have_their_snomed_code(name, meaning):
    code = structure_code(name)
    assert (code.meaning, code.scheme_designator) == (meaning, "SCT")
