import numpy as np
import pytest

from tests.samples import organ_volume, write_nifti
from trainers.data import Examination, LabelledStudy, Lessons, slices_of, tasks_of

INDICES = {"organ": 1, "lesion": 2}


@pytest.fixture
def studies(tmp_path):
    """Three studies that show the organ; values differ from study to study, names do not."""
    found = []
    for number in range(3):
        image, mask = organ_volume(number, (40, 36, 10))
        image_path = write_nifti(tmp_path / f"s{number}.nii.gz", image)
        label_path = write_nifti(tmp_path / f"l{number}.nii.gz", mask * (number + 3))
        found.append(LabelledStudy(f"s{number}", image_path, label_path, {"organ": number + 3}))
    return found


def test_a_study_becomes_its_labelled_slices_with_common_indices(studies):
    images, labels = slices_of(studies[2], INDICES)
    assert images.shape == labels.shape == (len(images), 160, 160)
    assert 3 <= len(images) < 40
    assert set(np.unique(labels)) == {0, 1}
    assert all(label.any() for label in labels)


def test_studies_are_subjects_of_one_task(studies):
    tasks = tasks_of(studies, INDICES)
    assert set(tasks.subjects) == {0, 1, 2}
    assert set(tasks.showing) == {1}


def test_lessons_are_episodes_of_the_networks_size(studies):
    lessons = Lessons(tasks_of(studies, INDICES), 32, count=4)
    drawn = [lessons[index] for index in range(len(lessons))]
    assert len(drawn) == 4
    for item in drawn:
        assert item["images"].shape == item["masks"].shape == (4, 32, 32)
        assert item["masks"][0].any()
        assert np.isfinite(item["images"]).all()


def test_one_study_alone_is_learnt_from_and_examined_on_copies(studies):
    tasks = tasks_of(studies[:1], INDICES)
    assert Lessons(tasks, 32, count=2)[0]["masks"].shape == (4, 32, 32)
    examination = Examination(tasks, None, 32)
    assert examination.on_copies
    assert len(examination) > 0
    template, query = examination[0]["images"]
    assert not np.array_equal(template, query)


def test_the_examination_asks_about_held_out_studies_and_is_always_the_same(studies):
    learnt, held_out = tasks_of(studies[:2], INDICES), tasks_of(studies[2:], INDICES)
    first, again = Examination(learnt, held_out, 32), Examination(learnt, held_out, 32)
    assert not first.on_copies
    assert len(first) == len(again) > 0
    for index in range(len(first)):
        for key in ("images", "masks"):
            np.testing.assert_array_equal(first[index][key], again[index][key])
        assert first[index]["masks"].any(axis=(1, 2)).all()
