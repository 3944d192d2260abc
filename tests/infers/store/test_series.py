import shutil
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
import pytest

from infers.store.series import SeriesScanner
from lib.imaging.images import read_image
from scripts.phantoms.dicom_series import write_series

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def write(folder, uid, seed=0):
    array = np.random.default_rng(seed).integers(0, 99, (6, 5, 4)).astype(np.int16)
    write_series(folder, array, AFFINE, uid=uid, patient="P", modality="MR")
    return array


def scanner(root):
    return SeriesScanner(root, root / ".oneprompt" / "series")


def test_each_series_is_one_image_wherever_it_lies(root):
    write(root / "a", "1.2.1")
    write(root / "b" / "c", "1.2.2")
    found = scanner(root).scan()
    assert {uid: series.folder for uid, series in found.items()} == {"1.2.1": root / "a", "1.2.2": root / "b" / "c"}
    assert found["1.2.1"].info["Modality"] == "MR"


def test_series_that_share_a_folder_are_read_apart(root):
    first, second = write(root / "a", "1.2.1", 1), write(root / "b", "1.2.2", 2)
    for file in (root / "b").iterdir():
        file.rename(root / "a" / f"b{file.name}")
    found = scanner(root).scan()
    np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, first)
    np.testing.assert_array_equal(read_image(found["1.2.2"].folder).array, second)


def test_a_study_folder_with_shared_series_can_be_copied_or_moved(root, tmp_path):
    first = write(root / "a", "1.2.1", 1)
    write(root / "b", "1.2.2", 2)
    for file in (root / "b").iterdir():
        file.rename(root / "a" / f"b{file.name}")
    scanner(root).scan()
    copied = Path(shutil.copytree(root, tmp_path / "copied"))  # links become files
    moved = root.rename(tmp_path / "moved")
    for place in (copied, moved):
        found = scanner(place).scan()
        np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, first)
        assert all(file.resolve().is_relative_to(place / "a") for file in found["1.2.1"].folder.iterdir())


def test_removing_a_series_leaves_other_files_alone(root):
    write(root / "a", "1.2.1")
    (root / "a" / "notes.txt").write_text("keep")
    (root / "a" / "sub").mkdir()
    scanner(root).scan()["1.2.1"].remove()
    assert sorted(path.name for path in (root / "a").iterdir()) == ["notes.txt", "sub"]
    write(root / "b", "1.2.2")
    scanner(root).scan()["1.2.2"].remove()
    assert not (root / "b").exists()


def test_loose_files_in_the_study_folder_are_a_series_too(root):
    array = write(root / "a", "1.2.1")
    for file in (root / "a").iterdir():
        file.rename(root / file.name)
    (root / "image.nii.gz").write_bytes(b"not looked at")
    found = scanner(root).scan()
    assert list(found) == ["1.2.1"]
    np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, array)


def test_labels_hidden_folders_and_other_files_are_left_alone(root):
    for name in ("labels", ".oneprompt"):
        write(root / name / "x", "1.2.3")
    (root / "sub").mkdir()
    (root / "sub" / "LICENSE").write_text("words")
    (root / "sub" / "torn.dcm").write_bytes(b"DICM?")
    assert scanner(root).scan() == {}


def test_segmentation_objects_are_no_images(root):
    write(root / "a", "1.2.1")
    file = sorted((root / "a").iterdir())[0]
    dataset = pydicom.dcmread(file)
    dataset.Modality, dataset.SeriesInstanceUID = "SEG", "1.2.9"
    dataset.save_as(root / "a" / "seg.dcm")
    found = scanner(root).scan()
    assert list(found) == ["1.2.1"]
    assert len(list(found["1.2.1"].folder.iterdir())) == 4


def test_a_folder_is_read_again_only_when_it_changed(root, monkeypatch):
    write(root / "a", "1.2.1")
    looking = scanner(root)
    looking.scan()
    with monkeypatch.context() as patch:
        patch.setattr(pydicom, "dcmread", None)  # would fail if it were called
        assert list(looking.scan()) == ["1.2.1"]
    write(root / "b", "1.2.2")
    assert sorted(looking.scan()) == ["1.2.1", "1.2.2"]


def test_a_uid_that_is_no_uid_becomes_a_safe_name(root):
    write(root / "strange folder", "1.2.1")
    for file in (root / "strange folder").iterdir():
        dataset = pydicom.dcmread(file)
        with pytest.warns(UserWarning, match="Invalid value for VR UI"):
            dataset.SeriesInstanceUID = "../../escape"
        dataset.save_as(file)
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        assert list(scanner(root).scan()) == ["strange_folder"]


def edit(folder, change):
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return folder


def move(source, target, names):
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (source / name).rename(target / name)


def test_a_series_that_lies_in_several_folders_is_one_image(root):
    array = write(root / "DISC" / "DIR000", "1.2.1")
    move(root / "DISC" / "DIR000", root / "DISC" / "DIR001", ["0001.dcm", "0003.dcm"])
    found = scanner(root).scan()
    assert list(found) == ["1.2.1"]
    np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, array)
    assert "2 folders" in found["1.2.1"].note
    found["1.2.1"].remove()
    assert scanner(root).scan() == {}


def test_files_of_one_name_in_several_folders_are_all_there(root):
    array = write(root / "a", "1.2.1")
    move(root / "a", root / "b", ["0002.dcm"])
    (root / "b" / "0002.dcm").rename(root / "b" / "0001.dcm")
    found = scanner(root).scan()
    np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, array)


def blank(dataset):
    dataset.SeriesInstanceUID = ""


def test_two_patients_without_a_series_uid_are_two_studies(root):
    arrays = []
    for number, patient in enumerate(("patA", "patB")):
        arrays.append(write(root / patient / "T1", "1.2.1", number))
        edit(root / patient / "T1", lambda d, patient=patient: (blank(d), setattr(d, "PatientID", patient)))
    found = scanner(root).scan()
    assert len(found) == 2
    assert "T1" in found
    for array, series in zip(arrays, found.values(), strict=True):
        np.testing.assert_array_equal(read_image(series.folder).array, array)
        assert "no SeriesInstanceUID" in series.note


def test_two_series_without_a_uid_in_one_folder_are_told_apart_by_number(root):
    first = write(root / "a", "1.2.1", 1)
    edit(root / "a", lambda d: (blank(d), setattr(d, "SeriesNumber", 1)))
    second = write(root / "b", "1.2.2", 2)
    edit(root / "b", lambda d: (blank(d), setattr(d, "SeriesNumber", 2)))
    for file in (root / "b").iterdir():
        file.rename(root / "a" / f"b{file.name}")
    found = scanner(root).scan()
    arrays = [read_image(series.folder).array for series in found.values()]
    np.testing.assert_array_equal(arrays, [first, second])


def test_two_patients_with_one_series_uid_are_two_studies_and_keep_their_ids(root):
    write(root / "b", "1.2.1", 2)
    assert list(scanner(root).scan()) == ["1.2.1"]
    write(root / "a", "1.2.1", 1)  # comes first in the folder, and must not take the other one's labels
    edit(root / "a", lambda d: setattr(d, "PatientID", "other"))
    found = scanner(root).scan()
    assert found["1.2.1"].folder == root / "b"
    (other,) = set(found) - {"1.2.1"}
    assert found[other].folder == root / "a"
    assert other.startswith("1.2.1-")
    assert "same UID" in found[other].note


def test_a_copy_in_another_folder_counts_once_and_is_named(root):
    array = write(root / "a", "1.2.1")
    shutil.copytree(root / "a", root / "backup")
    found = scanner(root).scan()
    np.testing.assert_array_equal(read_image(found["1.2.1"].folder).array, array)
    assert [path.parent.name for path in found["1.2.1"].repeats] == ["backup"] * 4


def test_other_volumes_of_one_uid_in_other_folders_are_studies_of_their_own(root):
    first = write(root / "a", "1.2.1", 1)
    again = write(root / "again", "1.2.1", 2)  # the same places, other pixels
    array = np.arange(4 * 4 * 3, dtype=np.int16).reshape(4, 4, 3)
    write_series(root / "small", array, AFFINE, uid="1.2.1", patient="P", modality="MR")
    found = scanner(root).scan()
    assert len(found) == 3
    by_folder = {series.files[0].parent.name: read_image(series.folder).array for series in found.values()}
    np.testing.assert_array_equal(by_folder["a"], first)
    np.testing.assert_array_equal(by_folder["again"], again)
    np.testing.assert_array_equal(by_folder["small"], array)


def test_instances_without_a_uid_of_their_own_are_all_kept(root):
    array = write(root / "a", "1.2.1")
    edit(root / "a", lambda d: setattr(d, "SOPInstanceUID", ""))
    move(root / "a", root / "b", ["0001.dcm"])
    np.testing.assert_array_equal(read_image(scanner(root).scan()["1.2.1"].folder).array, array)


def test_what_is_no_image_is_named_with_the_reason(root):
    write(root / "a", "1.2.1")
    for name in ("seg", "sr"):
        write(root / name, f"1.2.{len(name)}")
    edit(root / "seg", lambda d: setattr(d, "Modality", "SEG"))
    edit(root / "sr", lambda d: (setattr(d, "Modality", "SR"), delattr(d, "Rows")))
    looking = scanner(root)
    assert list(looking.scan()) == ["1.2.1"]
    assert "labels/final" in looking.left_out["seg/0001.dcm"]
    assert "without an image (SR)" in looking.left_out["sr/0001.dcm"]
    assert len(looking.left_out) == 8


UIDS = ("1.2.1", "1.2.2", "", "no number")
SOURCES = st.fixed_dictionaries({
    "uid": st.sampled_from(UIDS),
    "patient": st.sampled_from(["A", "B", ""]),
    "study": st.sampled_from(["1.9.1", "1.9.2"]),
    "number": st.sampled_from([1, 2]),
    "folder": st.sampled_from(["x", "y", "x/z"]),
    "shift": st.sampled_from([0, 100]),
    "rows": st.sampled_from([4, 4, 5]),
})  # fmt: skip


@hypothesis.settings(max_examples=15)
@hypothesis.given(sources=st.lists(SOURCES, min_size=2, max_size=3), spread=st.booleans())
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_whatever_headers_say_every_file_is_in_one_study_and_no_study_mixes_patients(sources, spread):
    """Files of several volumes under any mixture of UIDs, patients and folders; the first voxel tells whose each is."""
    with tempfile.TemporaryDirectory() as there:
        root, files = Path(there) / "studies", {}
        for owner, said in enumerate(sources):
            write_source(root, Path(there) / "made", owner, said, spread, files)
        found = scanner(root).scan()
        listed = [path for series in found.values() for path in (*series.files, *series.repeats)]
        assert sorted(listed) == sorted(files)
        for series in found.values():
            owners = {files[path] for path in series.files}
            told = [sources[owner] for owner in owners]
            assert len({(said["study"], said["patient"]) for said in told}) == 1
            assert len({said["uid"] for said in told if said["uid"] in UIDS[:2]}) <= 1
            if len(owners) == 1:
                expected = np.stack([pydicom.dcmread(path).pixel_array.T for path in sorted(series.files)], axis=2)
                np.testing.assert_array_equal(read_image(series.folder).array, expected)
        assert {id: series.files for id, series in scanner(root).scan().items()} == {
            id: series.files for id, series in found.items()
        }


def write_source(root, made, owner, said, spread, files):
    """One volume of two slices; `spread` puts the second into another folder."""
    array = np.full((6, said["rows"], 2), 10 * owner, np.int16)
    array[0, 0], array[1, 0] = owner, (50, 60)
    place = AFFINE.copy()
    place[2, 3] = said["shift"]
    write_series(made, array, place, uid=f"1.2.3.{owner}", patient="P", modality="MR")
    for number, path in enumerate(sorted(made.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = said["uid"], said["study"]
        dataset.PatientID, dataset.PatientName, dataset.SeriesNumber = said["patient"], said["patient"], said["number"]
        folder = root / (f"{said['folder']}/{number}" if spread and said["uid"] in UIDS[:2] else said["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{owner}-{number}.dcm"
        dataset.save_as(target)
        files[target] = owner


def test_a_copy_whose_headers_were_edited_counts_once(root):
    array = write(root / "a", "1.2.1")
    shutil.copytree(root / "a", root / "b")
    for name in ("0001.dcm", "0004.dcm"):
        (root / "b" / name).unlink()
    edit(root / "b", lambda d: setattr(d, "SeriesDescription", "edited"))
    [series] = scanner(root).scan().values()
    assert len(series.files) == 6
    np.testing.assert_array_equal(read_image(series.folder).array, array)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["1.2.1 ", "1.2.1\0"])
def test_padding_makes_no_other_uid(root, uid):
    array = write(root / "a", "1.2.1")
    dataset = pydicom.dcmread(root / "a" / "0002.dcm")
    dataset.SeriesInstanceUID = uid
    dataset.save_as(root / "a" / "0002.dcm")
    [series] = scanner(root).scan().values()
    np.testing.assert_array_equal(read_image(series.folder).array, array)


def test_one_uid_in_two_studies_of_one_patient_is_two_series(root):
    arrays = [write(root / name, "1.2.1", seed) for seed, name in enumerate("ab")]
    edit(root / "b", lambda d: setattr(d, "StudyInstanceUID", "1.2.99"))
    found = scanner(root).scan()
    assert len(found) == 2
    by_folder = {series.files[0].parent.name: read_image(series.folder).array for series in found.values()}
    np.testing.assert_array_equal([by_folder["a"], by_folder["b"]], arrays)
