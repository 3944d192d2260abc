"""DICOM SEG as this app writes it, judged by others: dciodvfy, dcmqi's reader, pydicom-seg and highdicom."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import highdicom
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
import pydicom_seg
import pytest
import SimpleITK
from highdicom.seg import SegmentAlgorithmTypeValues as By

from infers.dicom.dicomseg import (
    AUTOMATIC_SERIES,
    FINAL_SERIES,
    read_headers,
    structure_code,
    write_seg,
    write_segments,
)
from infers.dicom.headers import MAY_BE_EMPTY, completed
from infers.dicom.rtstruct import write_rtstruct
from lib.imaging.dicom import arrange
from lib.imaging.dicom_seg import read_seg
from lib.imaging.images import ImageError, read_image, read_named_label
from scripts.phantoms.dicom_series import write_series
from tests import dicom_samples as samples

NAMES = {"liver": 1, "left_kidney": 2, "thing of ours": 5}
PROVENANCE = {"weights": "0123456789ab", "templates": ["1.2.3"], "prompts": {"liver": ["click"]}}


EVEN = ["axial CT", "oblique MR", "enhanced MR"]


def series_of(kind, folder):
    """A series of a kind, in a folder."""
    makers = {
        "axial CT": lambda: samples.write(folder, samples.AXIAL, "CT"),
        "oblique MR": lambda: samples.write(folder, samples.oblique()),
        "enhanced MR": lambda: samples.enhanced(folder, samples.oblique()),
        "tilted CT": lambda: samples.tilted(folder),
        "incomplete MR": lambda: samples.incomplete(folder),
        "enhanced MR in several files": lambda: samples.in_several_files(samples.enhanced(folder, samples.oblique())),
    }
    return makers[kind]()


@pytest.fixture(scope="module", params=[*EVEN, "tilted CT", "incomplete MR", "enhanced MR in several files"])
def case(request, tmp_path_factory):
    """Folder of a series, its image, and a label with three structures and an empty slice."""
    folder = series_of(request.param, tmp_path_factory.mktemp("series") / "1.2.3")
    image = read_image(folder)
    label = np.zeros(image.array.shape, np.uint8)
    label[2:7, 3:6, 1:4], label[8:10, 6:9, 2:], label[0, 0, -1] = 1, 2, 5
    return folder, image, label


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
    folder, image, label = case
    read, names = read_seg(pydicom.dcmread(written), image, read_headers(folder))
    assert list(names) == list(NAMES)
    for name, value in names.items():
        np.testing.assert_array_equal(read == value, label == NAMES[name])


@pytest.mark.parametrize("case", [*EVEN, "tilted CT", "incomplete MR"], indirect=True)  # it asks no frames of several
def test_highdicom_gives_the_same_voxels_by_the_instances(case, written):
    folder, _, label = case
    headers = sorted(read_headers(folder), key=lambda header: header.InstanceNumber)
    seg, options = highdicom.seg.segread(written), {"assert_missing_frames_are_empty": True}
    if len(headers) > 1:
        planes = seg.get_pixels_by_source_instance([header.SOPInstanceUID for header in headers], **options)
    else:
        order = np.argsort(samples.FRAME_ORDER)  # the frame of each slice
        planes = seg.get_pixels_by_source_frame(headers[0].SOPInstanceUID, (order + 1).tolist(), **options)
    for number, value in enumerate(NAMES.values()):
        np.testing.assert_array_equal(planes[..., number].transpose(2, 1, 0).astype(bool), label == value)


@pytest.mark.parametrize("case", EVEN, indirect=True)  # its files know no others
def test_dcmqi_gives_the_same_voxels_at_the_same_places(case, written, tmp_path):
    _, image, label = case
    tool = Path(sys.executable).with_name("segimage2itkimage")
    command = [tool, "--inputDICOM", written, "--outputDirectory", tmp_path, "--outputType", "nii"]
    subprocess.run(command, check=True, capture_output=True)
    segments = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    assert [segment[0]["SegmentLabel"] for segment in segments] == list(NAMES)
    reference = SimpleITK.GetImageFromArray(np.zeros(image.array.shape[::-1], np.uint8))
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


def test_a_bare_reader_finds_each_frame_at_its_instances_place(case, written):
    folder, _, label = case
    seg = pydicom.dcmread(written)
    frames = arrange(read_headers(folder)).frames
    places = {tuple(np.round(frame.position, 4)): k for k, frame in enumerate(frames)}
    found = {name: np.zeros(label.shape, bool) for name in NAMES}
    for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = group.PlanePositionSequence[0].ImagePositionPatient
        k = places[tuple(np.round([float(value) for value in position], 4))]
        found[seg.SegmentSequence[number - 1].SegmentLabel][:, :, k] = plane.T
    for name, value in NAMES.items():
        np.testing.assert_array_equal(found[name], label == value)


@pytest.mark.parametrize("case", ["axial CT"], indirect=True)
def test_an_empty_label_and_a_series_that_is_another_are_refused(case, tmp_path):
    folder, image, label = case
    with pytest.raises(ImageError, match="is empty"):
        write_seg(read_headers(folder), image, np.zeros_like(label), NAMES, by=By.MANUAL)
    moved = image.affine.copy()
    moved[:3, 3] += 3
    other = samples.write(tmp_path / "1.2.4", moved, uid="1.2.4")
    with pytest.raises(ImageError, match="does not lie where the label lies"):
        write_seg(read_headers(other), image, label, NAMES, by=By.MANUAL)
    with pytest.raises(ImageError, match="they must agree"):
        write_seg(read_headers(folder)[1:], image, label, NAMES, by=By.MANUAL)
    radiograph = samples.single(tmp_path / "cr", "CR")
    with pytest.raises(ImageError, match="does not say where its images lie"):
        write_seg(read_headers(radiograph), read_image(radiograph), label[:, :, 3:4], NAMES, by=By.MANUAL)


@pytest.fixture
def overlapping(case, tmp_path):
    """A SEG with a lesion inside its organ, and the two masks."""
    folder, image, label = case
    masks = {"lesion": np.zeros(label.shape, bool), "liver": np.zeros(label.shape, bool)}
    masks["liver"][2:9, 2:8, 1:4], masks["lesion"][4:6, 4:6, 2] = True, True
    write_segments(read_headers(folder), image, masks, by=By.MANUAL).save_as(tmp_path / "seg.dcm")
    return tmp_path / "seg.dcm", masks


@pytest.mark.parametrize("case", EVEN, indirect=True)
def test_segments_that_overlap_are_both_whole_in_a_seg(case, overlapping, tmp_path):
    path, masks = overlapping
    seg = highdicom.seg.segread(path)
    frames = {}
    for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[number] = frames.get(number, 0) + int(plane.sum())
    assert list(frames.values()) == [int(mask.sum()) for mask in masks.values()]
    tool = Path(sys.executable).with_name("segimage2itkimage")
    command = [tool, "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    counts = [int((SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) > 0).sum())
              for file in sorted(tmp_path.glob("*.nrrd"))]  # fmt: skip
    assert counts == list(frames.values())


def test_where_segments_overlap_a_label_map_keeps_the_smaller(case, overlapping):
    path, masks = overlapping
    folder, image, _ = case
    label, names = read_seg(pydicom.dcmread(path), image, read_headers(folder))
    np.testing.assert_array_equal(label == names["lesion"], masks["lesion"])
    np.testing.assert_array_equal(label == names["liver"], masks["liver"] & ~masks["lesion"])


def test_a_seg_with_frames_of_its_own_is_read_by_its_geometry(tmp_path):
    """Another program's SEG on a grid with twice the rows."""
    image = read_image(samples.write(tmp_path / "s"))
    fine = image.affine.copy()
    fine[:3, 1] /= 2
    fine[:3, 3] -= fine[:3, 1] / 2
    write_series(tmp_path / "fine", np.repeat(image.array, 2, axis=1), fine, uid="1.2.4", patient="P", modality="MR")
    label = np.zeros(image.array.shape, np.uint8)
    label[3:6, 2:7, 1:4] = 1
    seg = write_seg(read_headers(tmp_path / "fine"), read_image(tmp_path / "fine"), np.repeat(label, 2, axis=1),
                    {"liver": 1}, by=By.MANUAL)  # fmt: skip
    np.testing.assert_array_equal(read_seg(seg, image)[0], label)


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


@pytest.mark.parametrize("structures", [{"liver": 1}, {"liver": 1, "spleen": 2}])
def test_a_segmentation_is_read_as_a_label_with_the_names_of_its_segments(tmp_path, structures):
    folder = samples.write(tmp_path / "s", samples.oblique())
    image = read_image(folder)
    label = np.zeros(image.array.shape, np.uint8)
    label[2:6, 3:7, 1:4] = 1
    label[7:9, 1:3, 2:5] = len(structures)
    write_seg(read_headers(folder), image, label, structures, by=By.MANUAL).save_as(tmp_path / "a.dcm")
    read, names = read_named_label(tmp_path / "a.dcm", image)
    assert names == {value: name for name, value in structures.items()}
    np.testing.assert_array_equal(read, label)


def test_a_segmentation_of_unevenly_spaced_slices_needs_nothing_but_the_image(tmp_path):
    folder = samples.incomplete(tmp_path / "s")
    image = read_image(folder)
    label = np.zeros(image.array.shape, np.uint8)
    label[2:6, 3:7, 1:4] = 1
    write_seg(read_headers(folder), image, label, {"liver": 1}, by=By.MANUAL).save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_named_label(tmp_path / "a.dcm", image)[0], label)


@hypothesis.given(
    absent=st.sets(st.sampled_from(MAY_BE_EMPTY)),
    empty=st.sets(st.sampled_from(MAY_BE_EMPTY)),
    kind=st.sampled_from([samples.write, samples.enhanced]),
)
@hypothesis.settings(max_examples=12)
def test_what_may_be_empty_may_be_absent(absent, empty, kind):
    with tempfile.TemporaryDirectory() as there:
        folder = kind(Path(there) / "s")
        image, series = read_image(folder), read_headers(folder)
        for header in series:
            for name in empty:
                setattr(header, name, None)
            for name in absent & {element.keyword for element in header}:
                delattr(header, name)
        label = np.zeros(image.array.shape, np.uint8)
        label[2:6, 3:7, 1:4] = 1
        write_seg(series, image, label, {"liver": 1}, by=By.MANUAL).save_as(Path(there) / "a.dcm")
        read = pydicom.dcmread(Path(there) / "a.dcm")
        for name in (absent | empty) & {"PatientName", "PatientBirthDate", "StudyDate", "AccessionNumber", "StudyID"}:
            assert name in read
            assert not read[name].value
        np.testing.assert_array_equal(read_seg(read, image)[0], label)
        structures = write_rtstruct(series, image, label, {"liver": 1}, by=By.MANUAL)
        assert "PatientBirthDate" in structures


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_series_without_what_must_be_referred_to_says_what_is_missing(tmp_path, name):
    folder = samples.write(tmp_path / "s")
    image, series = read_image(folder), read_headers(folder)
    for header in series:
        delattr(header, name)
    label = np.ones(image.array.shape, np.uint8)
    for write in (write_seg, write_rtstruct):
        with pytest.raises(ImageError, match=f"has no {name}"):
            write(series, image, label, {"liver": 1}, by=By.MANUAL)


def test_what_was_filled_is_logged_once_a_series(tmp_path, caplog):
    folder = samples.write(tmp_path / "s", uid="1.2.3.77")
    series = read_headers(folder)
    for header in series:
        del header.PatientSex
        birth_date(header)
    with caplog.at_level("INFO"):
        completed(series)
        completed(series)
    assert [record.getMessage() for record in caplog.records].count(
        "series 1.2.3.77: taken as empty: PatientBirthDate (not valid), PatientSex (absent)"
    ) == 1
    assert "PatientSex" not in series[0]


def label_on(image):
    label = np.zeros(image.array.shape, np.uint8)
    label[2:6, 3:7, 1:4], label[8:10, 1:3, 3:] = 1, 2
    return label


def test_a_series_in_several_objects_gets_a_segmentation_of_their_frames(tmp_path):
    folder = samples.in_several_files(samples.enhanced(tmp_path / "s", samples.oblique()))
    image, series = read_image(folder), read_headers(folder)
    label = label_on(image)
    write_seg(series, image, label, {"liver": 1, "spleen": 2}, by=By.MANUAL).save_as(tmp_path / "seg.dcm")
    read, names = read_named_label(tmp_path / "seg.dcm", image)
    assert names == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(read, label)
    seg, by_uid = pydicom.dcmread(tmp_path / "seg.dcm"), {header.SOPInstanceUID: header for header in series}
    for group in seg.PerFrameFunctionalGroupsSequence:
        [source] = group.DerivationImageSequence[0].SourceImageSequence
        header = by_uid[source.ReferencedSOPInstanceUID]
        number = source.get("ReferencedFrameNumber", 1)
        referred = header.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, referred, atol=1e-6)
    assert {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == set(
        by_uid
    )


def number_of_frames(header):
    header.NumberOfFrames = 1


def no_thickness(header):
    header.SliceThickness = None


def birth_date(header):
    header["PatientBirthDate"] = pydicom.DataElement(0x00100030, "DA", "19000000", validation_mode=0)


def long_decimals(header):
    element = header["PixelSpacing"]
    header["PixelSpacing"] = pydicom.DataElement(element.tag, "DS", ["0.80000000000000004", "1.5000000000000000001"])


def name_without_charset(header):
    header.pop("SpecificCharacterSet", None)
    header.PatientName = "Müller^Jürgen"


def lossy_without_method(header):
    header.LossyImageCompression = "01"


def two_names(header):
    header.PatientName = ["A^B", "C^D"]


def words_for_codes(header):
    header.PatientSex, header.StudyTime = "female", "about noon"


def long_numbers(header):
    header.SeriesNumber, header.InstanceNumber = 2**31 - 1, None


@pytest.mark.parametrize("edit", [
    number_of_frames, no_thickness, birth_date, long_decimals, name_without_charset, words_for_codes,
    lossy_without_method, two_names, long_numbers,
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom and highdicom warn of what breaks the standard
def test_headers_as_they_come_get_their_segmentation(tmp_path, edit):
    folder = samples.write(tmp_path / "s", samples.oblique())
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        edit(header)
        header.save_as(path)
    image = read_image(folder)
    label = label_on(image)
    write_seg(read_headers(folder), image, label, {"liver": 1, "spleen": 2}, by=By.MANUAL).save_as(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_named_label(tmp_path / "seg.dcm", image)[0], label)
    lossy = "01" if edit is lossy_without_method else "00"
    assert pydicom.dcmread(tmp_path / "seg.dcm").LossyImageCompression == lossy


@pytest.mark.parametrize("value", ["", None])
def test_a_series_without_a_frame_of_reference_says_so(tmp_path, value):
    folder = samples.change(samples.write(tmp_path / "s"), lambda d, k: setattr(d, "FrameOfReferenceUID", value))
    image = read_image(folder)
    with pytest.raises(ImageError, match="no FrameOfReferenceUID"):
        write_seg(read_headers(folder), image, label_on(image), {"liver": 1}, by=By.MANUAL)


def test_instances_that_share_a_uid_cannot_be_referred_to(tmp_path):
    folder = samples.change(samples.write(tmp_path / "s"), lambda d, k: setattr(d, "SOPInstanceUID", "1.2.9"))
    image = read_image(folder)
    with pytest.raises(ImageError, match="share a SOPInstanceUID"):
        write_seg(read_headers(folder), image, label_on(image), {"liver": 1}, by=By.MANUAL)


def drawn_by_pydicom_seg(folder, image, label, there):
    meta = {"ContentCreatorName": "A^B", "SeriesDescription": "s", "SeriesNumber": "3", "InstanceNumber": "1",
            "segmentAttributes": [[segment_attributes(1, "liver"), segment_attributes(2, "spleen")]]}  # fmt: skip
    template = pydicom_seg.template.from_dcmqi_metainfo(meta)
    writer = pydicom_seg.MultiClassWriter(template=template, skip_missing_segment=True)
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    writer.write(as_itk(image, label), sources).save_as(there / "seg.dcm")


def drawn_by_dcmqi(folder, image, label, there):
    meta = {"ContentCreatorName": "A^B", "SeriesDescription": "s", "SeriesNumber": "3", "InstanceNumber": "1",
            "segmentAttributes": [[segment_attributes(1, "liver"), segment_attributes(2, "spleen")]]}  # fmt: skip
    (there / "meta.json").write_text(json.dumps(meta))
    SimpleITK.WriteImage(as_itk(image, label), str(there / "label.nrrd"))
    tool = Path(sys.executable).with_name("itkimage2segimage")
    command = [tool, "--inputDICOMDirectory", folder, "--inputImageList", there / "label.nrrd",
               "--inputMetadata", there / "meta.json", "--outputDICOM", there / "seg.dcm"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def segment_attributes(number, name):
    code = {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    return {"labelID": number, "SegmentDescription": name, "SegmentLabel": name, "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code, "SegmentedPropertyTypeCodeSequence": code}  # fmt: skip


def as_itk(image, label):
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    drawn = SimpleITK.GetImageFromArray(label.transpose())
    drawn.SetSpacing(spacing.tolist())
    drawn.SetOrigin(lps[:3, 3].tolist())
    drawn.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return drawn


@pytest.mark.parametrize("draw", [drawn_by_pydicom_seg, drawn_by_dcmqi])
@pytest.mark.parametrize("kind", ["axial CT", "oblique MR"])
def test_segmentations_of_other_programs_are_read_on_the_same_voxels(tmp_path, kind, draw):
    folder = series_of(kind, tmp_path / "s")
    image = read_image(folder)
    label = label_on(image)
    draw(folder, image, label, tmp_path)
    read, names = read_named_label(tmp_path / "seg.dcm", image)
    assert names == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(read, label)
