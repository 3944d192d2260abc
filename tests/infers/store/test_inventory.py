"""Every file of a folder is listed: taken as what, joined with what, or left out why."""

import os
import shutil

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from infers.errors import ClientError
from infers.label_records import FINAL
from infers.store.datastore import StudyStore
from lib.imaging.images import read_image, read_label
from scripts.phantoms.dicom_series import write_series
from tests.samples import AFFINE, organ_volume, segmentation, write_nifti


@pytest.fixture
def root(tmp_path):
    (tmp_path / "studies" / "labels" / "final").mkdir(parents=True)
    return tmp_path / "studies"


def listed(root):
    store = StudyStore(str(root))
    return store, {one.path: one for one in store.listing() if one.taken != "index"}


def itk(path, seed=0):
    array = organ_volume(seed)[0]
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.transpose()), str(path))
    return array


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nhdr", ".hdr"])
def test_formats_that_itk_reads_are_studies_with_their_voxels(root, suffix):
    array = itk(root / f"a{suffix}")
    store, found = listed(root)
    assert store.list_images() == ["a"]
    np.testing.assert_allclose(read_image(store.get_image_uri("a")).array, array)
    assert found[f"a{suffix}"].taken == "image"
    assert found[f"a{suffix}"].study == "a"
    assert {one.taken for path, one in found.items() if path != f"a{suffix}"} <= {"part"}
    assert store.unreadable() == {}
    store.remove_image("a")
    assert [path.name for path in root.iterdir() if path.is_file() and path.name.startswith("a")] == []


def test_a_header_that_is_uploaded_without_its_voxels_is_refused(root, tmp_path):
    itk(tmp_path / "a.mhd")
    with pytest.raises(ClientError, match="as one file"):
        StudyStore(str(root)).add_image("a", str(tmp_path / "a.mhd"), {})


def test_what_is_left_out_has_its_reason(root):
    write_nifti(root / "s1.nii.gz", organ_volume(0)[0])
    (root / "sub").mkdir()
    write_nifti(root / "sub" / "s2.nii.gz", organ_volume(1)[0])
    (root / "gone.nii.gz").symlink_to(root / "nowhere.nii.gz")
    (root / "brain.mgz").write_bytes(b"FreeSurfer")
    (root / "notes.txt").write_text("words")
    segmentation(root / "s1.seg.nrrd", organ_volume(0)[1], AFFINE)
    write_nifti(root / "labels" / "final" / "s1-label.nii.gz", organ_volume(0)[1])
    write_nifti(root / "labels" / "final" / "other.nii.gz", organ_volume(0)[1])
    store, found = listed(root)
    assert store.list_images() == ["s1"]
    reasons = {path: one.note for path, one in found.items() if one.taken == "left out"}
    for path, part in {
        "sub/s2.nii.gz": "sub-folder",
        "gone.nii.gz": "a link to nothing",
        "brain.mgz": "no format that is read",
        "s1.seg.nrrd": "labels/final",
        "labels/final/s1-label.nii.gz": "name it s1.nii.gz",
        "labels/final/other.nii.gz": "no image is called other",
        "notes.txt": "no format that is read",
    }.items():
        assert part in reasons.pop(path)
    assert not reasons
    assert "notes.txt" not in store.unreadable()
    assert len(store.unreadable()) == 6


def test_labels_and_records_stand_beside_their_studies(root):
    write_nifti(root / "s1.nii.gz", organ_volume(0)[0])
    store = StudyStore(str(root))
    store.save_label("s1", str(write_nifti(root.parent / "m.nii.gz", organ_volume(0)[1])), FINAL, {})
    (root / "labels" / "final" / "s1.json").write_text('{"labels": {"liver": 1}}')
    nrrd.write(str(root / "labels" / "final" / "s1.nrrd"), organ_volume(0)[1])
    _, found = listed(root)
    taken = {path: one.taken for path, one in found.items()}
    assert taken == {
        "s1.nii.gz": "image",
        "labels/final/s1.nii.gz": "label",
        "labels/final/s1.oneprompt.json": "record",
        "labels/final/s1.json": "record",
        "labels/final/s1.nrrd": "left out",
    }
    assert "another label of s1" in found["labels/final/s1.nrrd"].note


def test_two_files_of_one_id_are_two_studies_and_the_first_keeps_its_id(root):
    nrrd.write(str(root / "a.nrrd"), organ_volume(0)[0])
    assert StudyStore(str(root)).list_images() == ["a"]
    write_nifti(root / "a.nii.gz", organ_volume(1)[0])
    store, found = listed(root)
    assert sorted(store.list_images()) == ["a", "a.nii.gz"]
    assert store.get_image_uri("a").endswith("a.nrrd")
    assert store.get_image_uri("a.nii.gz").endswith("a.nii.gz")
    assert {path: one.study for path, one in found.items()} == {"a.nrrd": "a", "a.nii.gz": "a.nii.gz"}
    label = write_nifti(root.parent / "m.nii.gz", organ_volume(1)[1])
    store.save_label("a.nii.gz", str(label), FINAL, {})
    again = StudyStore(str(root))
    assert again.records("a.nii.gz").keys() == {FINAL}
    assert again.records("a").keys() == set()


def test_dicom_files_are_listed_with_their_series_and_their_copies(root):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(root / "x" / "one", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    shutil.copytree(root / "x" / "one", root / "backup")
    _, found = listed(root)
    assert {one.taken for path, one in found.items() if path.startswith("backup/")} == {"image"}
    assert {one.taken for path, one in found.items() if path.startswith("x/one/")} == {"copy"}
    assert {one.study for one in found.values()} == {"1.2.1"}
    assert "3 files of a DICOM series" in found["backup/0001.dcm"].note


def test_what_reading_an_image_told_stays_with_it(root):
    file = nibabel.Nifti1Image(organ_volume(0)[0], None)
    file.header.set_sform(np.eye(4), 0)
    file.header.set_qform(np.eye(4), 0)
    nibabel.save(file, root / "s1.nii")
    store = StudyStore(str(root))
    store.note_image("s1", read_image(store.get_image_uri("s1")).note)
    assert "in two ways" in StudyStore(str(root)).notes()["s1"]


def test_a_study_with_the_longest_name_is_labelled_and_a_longer_one_is_told(root):
    longest, longer = "ä" * 120, "b" * 241
    write_nifti(root / f"{longest}.nii.gz", organ_volume(0)[0])
    write_nifti(root / f"{longer}.nii.gz", organ_volume(0)[0])
    store, found = listed(root)
    assert store.list_images() == [longest]
    assert "rename it" in found[f"{longer}.nii.gz"].note
    mask = write_nifti(root.parent / "m.nii.gz", organ_volume(0)[1])
    store.save_label(longest, str(mask), FINAL, {"label_names": {"liver": 1}})
    assert StudyStore(str(root)).records(longest)[FINAL].statement.label_names == {"liver": 1}


def test_a_linked_folder_is_part_of_the_list_and_is_never_emptied(root, tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(tmp_path / "archive" / "p1", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    (root / "linked").symlink_to(tmp_path / "archive")
    store, found = listed(root)
    assert store.list_images() == ["1.2.1"]
    np.testing.assert_array_equal(read_image(store.get_image_uri("1.2.1")).array, array)
    assert {one.taken for path, one in found.items() if path.startswith("linked/p1/")} == {"image"}
    with pytest.raises(ClientError, match="remove the link"):
        store.remove_image("1.2.1")
    assert len(list((tmp_path / "archive" / "p1").iterdir())) == 3
    (root / "linked").unlink()
    store.refresh()
    assert store.list_images() == []


def test_links_in_a_circle_and_links_to_what_is_shown_already_end(root, tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(root / "p1", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    for place, target in {
        root / "again": root / "p1", root / "p1" / "up": root, root / "all": tmp_path,
        root / "o": tmp_path / "outside", tmp_path / "outside" / "deep" / "back": tmp_path / "outside",
    }.items():  # fmt: skip
        place.symlink_to(target)
    store, found = listed(root)
    assert store.list_images() == ["1.2.1"]
    assert {path: one.taken for path, one in found.items() if not path.endswith(".dcm")} == {
        "again": "copy", "p1/up": "copy", "o/deep/back": "copy", "all": "left out"
    }  # fmt: skip
    assert "sub-folders" in store.unreadable()["all"]
    assert len(store.unreadable()) == 1


def test_a_folder_that_may_not_be_looked_into_is_told(root, monkeypatch):
    (root / "private").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, *how, **more: path.name != "private" and allowed(path, *how, **more))
    assert "permissions" in listed(root)[0].unreadable()["private"]


@pytest.mark.parametrize("name", ["IM-0001.mr", "scan.img", "1.2.3.final copy"])
def test_dicom_of_any_name_is_found_by_its_first_bytes(root, name):
    array = np.arange(20, dtype=np.int16).reshape(5, 4, 1)
    write_series(root / "x", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    (root / "x" / "0001.dcm").rename(root / "x" / name)
    (root / "x" / "report.pdf").write_bytes(b"%PDF")
    store, found = listed(root)
    np.testing.assert_array_equal(read_image(store.get_image_uri("1.2.1")).array, array)
    assert found[f"x/{name}"].taken == "image"
    assert store.unreadable() == {}


def test_the_table_of_contents_of_a_medium_is_no_problem_and_hides_no_series(root):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(root / "cd", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    shutil.copy(root / "cd" / "0001.dcm", root / "cd" / "DICOMDIR")  # DICOM by its bytes, as a real one is
    store, found = listed(root)
    assert found["cd/DICOMDIR"].taken == "record"
    assert store.unreadable() == {}
    np.testing.assert_array_equal(read_image(store.get_image_uri("1.2.1")).array, array)


def test_labels_in_the_wrong_place_are_told_where_they_belong(root):
    write_nifti(root / "s1.nii.gz", organ_volume(0)[0])
    write_nifti(root / "s1b.nii.gz", organ_volume(1)[0])
    mask = organ_volume(0)[1]
    (root / "labels" / "final" / "ann").mkdir()
    for place in ("s1.nii.gz", "final/ann/s1.nii.gz", "final/s1b_seg.nii.gz", "original/nobody.nii.gz"):
        (root / "labels" / place).parent.mkdir(exist_ok=True)
        write_nifti(root / "labels" / place, mask)
    shutil.copy(sorted(series(root / "d"))[0], root / "labels" / "final" / "1.2.1")
    store, found = listed(root)
    for path, part in {
        "labels/s1.nii.gz": "move it to labels/final",
        "labels/final/ann/s1.nii.gz": "move it to labels/final",
        "labels/final/s1b_seg.nii.gz": "name it s1b.nii.gz",
        "labels/original/nobody.nii.gz": "no image is called nobody",
        "labels/final/1.2.1": "add .dcm",
    }.items():
        assert part in store.unreadable()[path], path
        assert found[path].taken == "left out"


def series(folder):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(folder, array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    return folder.iterdir()


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nhdr", ".hdr"])
def test_labels_that_itk_writes_are_read_where_they_are_and_their_voxels_are_named(root, suffix):
    write_nifti(root / "s1.nii.gz", organ_volume(0)[0])
    mask = organ_volume(0)[1]
    itk_like = SimpleITK.ReadImage(str(root / "s1.nii.gz"))
    drawn = SimpleITK.GetImageFromArray(mask.transpose())
    drawn.CopyInformation(itk_like)
    SimpleITK.WriteImage(drawn, str(root / "labels" / "final" / f"s1{suffix}"))
    store, found = listed(root)
    assert store.unreadable() == {}
    assert found[f"labels/final/s1{suffix}"].taken == "label"
    assert {one.study for path, one in found.items() if path.startswith("labels/final/")} == {"s1"}
    label = read_label(store.label("s1", FINAL).path, read_image(store.get_image_uri("s1")))
    np.testing.assert_array_equal(label, mask)


def test_a_header_whose_voxels_were_not_copied_says_which(root):
    itk(root / "a.mhd")
    (root / "a.raw").unlink()
    assert "copy a.raw beside it" in listed(root)[1]["a.mhd"].note
