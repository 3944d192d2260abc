import shutil
from pathlib import Path

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
