import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from scripts.make_demo_data import write_demo_data
from scripts.measure.study_list import StudyListError, Truth, copy_studies, find_studies


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def phantoms(tmp_path):
    write_demo_data(tmp_path / "demo", count=3, size=(32, 32, 8))
    return tmp_path / "demo"


def test_files_and_series_are_studies_under_the_ids_that_the_server_gives_them(phantoms):
    studies = find_studies(phantoms / "studies")
    assert [study.id for study in studies][1:] == ["phantom_001", "phantom_002"]
    assert studies[0].path.is_dir()
    assert studies[0].id == studies[0].path.name


def test_what_a_server_left_in_the_folder_is_no_study_and_is_not_copied(phantoms, tmp_path):
    studies = phantoms / "studies"
    before = find_studies(studies)
    save(studies / "labels" / "final" / "phantom_001.nii.gz", np.zeros((4, 4, 4), np.uint8))
    (studies / "datastore_v2.json").write_text("{}")
    (studies / ".oneprompt").mkdir()
    assert find_studies(studies) == before
    copy_studies(before, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(study.path.name for study in before)


def test_a_copy_holds_the_same_bytes(phantoms, tmp_path):
    studies = find_studies(phantoms / "studies")
    copy_studies(studies, tmp_path / "copy")
    for study, copied in zip(studies, find_studies(tmp_path / "copy"), strict=True):
        files = [study.path] if study.path.is_file() else sorted(study.path.iterdir())
        copies = [copied.path] if copied.path.is_file() else sorted(copied.path.iterdir())
        assert [path.read_bytes() for path in files] == [path.read_bytes() for path in copies]


def test_truth_is_found_by_the_study_and_names_its_structures(phantoms):
    truth = Truth.in_folder(phantoms / "truth")
    for study in find_studies(phantoms / "studies"):
        label = truth.read(study)
        assert truth.structures(label)["liver"] == 1
        assert len(truth.structures(label)) == 8


def test_truth_without_names_calls_structures_by_their_value(tmp_path):
    save(tmp_path / "truth" / "a.nii.gz", np.array([[[0, 3], [7, 0]]], np.uint8))
    truth = Truth.in_folder(tmp_path / "truth")
    assert truth.structures(np.array([0, 3, 7])) == {"label_3": 3, "label_7": 7}


def test_a_picture_has_its_truth_in_a_picture(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "truth").mkdir()
    Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "studies" / "x.png")
    label = np.zeros((8, 8), np.uint8)
    label[2, 5] = 1
    Pillow.fromarray(label).save(tmp_path / "truth" / "x.png")
    (study,) = find_studies(tmp_path / "studies")
    assert study.id == "x"
    found = Truth.in_folder(tmp_path / "truth").read(study)
    assert found[5, 2] == 1  # (i, j): column, row
    assert found.sum() == 1


def test_a_missing_truth_is_none_and_needing_it_says_where_it_should_be(phantoms, tmp_path):
    (tmp_path / "truth").mkdir()
    truth = Truth.in_folder(tmp_path / "truth")
    study = find_studies(phantoms / "studies")[1]
    assert truth.read(study) is None
    with pytest.raises(StudyListError, match=r"a label map called phantom_001\.nii"):
        truth.need(study)


@pytest.mark.parametrize("content", ["[]", '{"labels": ["liver"]}', '{"labels": {"one": "liver"}}', "{"])
def test_names_that_cannot_be_read_are_refused_with_the_form_they_should_have(tmp_path, content):
    (tmp_path / "truth").mkdir()
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(StudyListError, match=r'must hold "labels": \{"1": name'):
        Truth.in_folder(tmp_path / "truth")


def test_a_folder_without_studies_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text(json.dumps("nothing"))
    with pytest.raises(StudyListError, match="holds no study"):
        find_studies(tmp_path)
    with pytest.raises(StudyListError, match="is none"):
        find_studies(tmp_path / "absent")
