import subprocess

import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues as By
from matplotlib.path import Path as Polygon

from infers.dicom.dicomseg import read_headers
from infers.dicom.headers import with_elements
from infers.dicom.rtstruct import write_rtstruct
from lib.imaging.dicom import arrange
from lib.imaging.images import ImageError, read_image
from tests import dicom_samples as samples

NAMES = {"liver": 1, "ring": 4, "not there": 6, "dot at the edge": 7}
KINDS = {
    "axial CT": lambda folder: samples.write(folder, samples.AXIAL, "CT"),
    "oblique MR": lambda folder: samples.write(folder, samples.oblique()),
    "enhanced MR": lambda folder: samples.enhanced(folder, samples.oblique()),
    "tilted CT": samples.tilted,
    "incomplete MR": samples.incomplete,
}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request, tmp_path_factory):
    """Headers of a series, its image, and a label: a block, a ring in the last slice, one voxel in a corner."""
    folder = KINDS[request.param](tmp_path_factory.mktemp("series") / "1.2.3")
    image = read_image(folder)
    label = np.zeros(image.array.shape, np.uint8)
    label[3:9, 2:8, 1:4] = 1
    label[4:6, 7:9, 2] = 1
    label[2:10, 2:9, -1], label[4:7, 4:6, -1] = 4, 0
    label[0, 0, 0] = 7
    return read_headers(folder), image, label


@pytest.fixture
def written(case, tmp_path):
    headers, image, label = case
    write_rtstruct(headers, image, label, NAMES, by=By.AUTOMATIC).save_as(tmp_path / "rtstruct.dcm")
    return tmp_path / "rtstruct.dcm"


def places(headers):
    """{(instance, frame number): slice k, first pixel's place, step from column to column and from row to row}."""
    arranged = arrange(headers)
    return {
        (headers[frame.instance].SOPInstanceUID, frame.number + 1): (
            k,
            frame.position,
            frame.directions * frame.spacing,
        )
        for k, frame in enumerate(arranged.frames)
    }


def rasterised(structure_set, headers, shape):
    """{structure: mask} from the outlines alone, by the even-odd rule, each on the frame that it names."""
    lying = places(headers)
    middles = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij"), -1).reshape(-1, 2)
    masks = {}
    for roi, outlined in zip(structure_set.StructureSetROISequence, structure_set.ROIContourSequence, strict=True):
        assert roi.ROINumber == outlined.ReferencedROINumber
        mask = masks[roi.ROIName] = np.zeros(shape, bool)
        for contour in outlined.ContourSequence:
            points = np.reshape(np.asarray(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            (named,) = contour.ContourImageSequence
            k, origin, steps = lying[named.ReferencedSOPInstanceUID, named.get("ReferencedFrameNumber", 1)]
            indices = (points - origin) @ np.linalg.pinv(steps).T
            assert np.abs(origin + indices @ steps.T - points).max() < 0.01  # in the frame's plane
            mask[:, :, k] ^= Polygon(indices).contains_points(middles).reshape(shape[:2])
    return masks


def test_the_outlines_give_the_mask_again_with_its_hole(case, written):
    headers, _, label = case
    masks = rasterised(pydicom.dcmread(written), headers, label.shape)
    assert list(masks) == ["liver", "ring", "dot at the edge"]
    for name, mask in masks.items():
        truth = label == NAMES[name]
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == 1


@pytest.mark.needs("dciodvfy")
def test_an_independent_validator_finds_no_error(written):
    done = subprocess.run(["dciodvfy", written], capture_output=True, text=True)
    told = (done.stdout + done.stderr).splitlines()
    assert "RTStructureSet" in told, "it must have known what this is"
    assert [line for line in told if line.startswith("Error")] == []


def test_it_refers_to_its_series_patient_and_maker(case, written):
    headers = case[0]
    structure_set = pydicom.dcmread(written)
    (referred,) = structure_set.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    (series,) = referred.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence} == {h.SOPInstanceUID for h in headers}
    assert structure_set.PatientID == headers[0].PatientID
    assert {roi.ROIGenerationAlgorithm for roi in structure_set.StructureSetROISequence} == {"AUTOMATIC"}


def test_an_empty_label_is_refused(case):
    headers, image, label = case
    with pytest.raises(ImageError, match="is empty"):
        write_rtstruct(headers, image, np.zeros_like(label), NAMES, by=By.MANUAL)


@pytest.mark.parametrize("side", [1e-4, 1e-2])
def test_outlines_are_as_exact_under_a_microscope(tmp_path, side):
    affine = samples.oblique() * side
    affine[3, 3] = 1
    folder = samples.write(tmp_path / "1.2.3", affine)
    image, headers = read_image(folder), read_headers(folder)
    label = np.zeros(image.array.shape, np.uint8)
    label[3:9, 2:8, 1:4], label[4:6, 7:9, 2], label[0, 0, 0] = 1, 1, 7
    structures = write_rtstruct(headers, image, label, {"liver": 1, "dot": 7}, by=By.MANUAL)
    for name, mask in rasterised(structures, headers, label.shape).items():
        np.testing.assert_array_equal(mask, label == {"liver": 1, "dot": 7}[name])


def test_headers_that_allow_no_structure_set_are_refused_with_the_reason(case):
    headers, image, label = case
    strange = [with_elements(header, {"SOPClassUID": "1.2.3.4"}) for header in headers]
    with pytest.raises(ImageError, match=r"do not allow an RTSTRUCT: .*1\.2\.3\.4"):
        write_rtstruct(strange, image, label, NAMES, by=By.MANUAL)
