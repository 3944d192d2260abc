from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import infers.study_list.corrections
from infers.label_records import AUTOMATIC, FINAL, Provenance
from infers.study_list.corrections import Corrections
from infers.study_list.predicted_quality import PredictedQuality
from lib.imaging.images import read_label
from lib.inference.control import Cancelled, Control
from lib.quality.estimate import estimate_quality, quality_record
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Prediction
from tests.infers.fakes import FakePredictor, StoppedWhen, make_studies
from tests.samples import organ_volume, write_nifti

PLAIN = Estimator(["reverse"], [0.5], [0.25], [[{"weights": [[1.0]], "bias": [0.0]}]])
EVIDENCE = {"size": 0.2, "reverse": 0.9}


class Sure(FakePredictor):
    """Is sure of masks that hold only half of the organ."""

    def segment(self, image, templates, labels, *, control=Control(), second=None):
        made = super().segment(image, templates, labels, control=control, second=second)
        made.mask[: made.mask.shape[0] // 2] = 0
        record = quality_record(
            {name: estimate_quality(EVIDENCE, PLAIN) for name in labels}, {name: EVIDENCE for name in labels}
        )
        return Prediction(made.mask, made.labels, record["quality"], {**made.provenance, **record})


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(4):
        write_nifti(studies / f"s{number}.nii.gz", organ_volume(number)[0])
        write_nifti(tmp_path / f"label{number}.nii.gz", organ_volume(number)[1])
    return studies


@pytest.fixture
def studies(folder):
    return make_studies(str(folder), Sure())


@pytest.fixture
def corrections(studies, tmp_path):
    return Corrections(studies, tmp_path / "checks.json", PLAIN)


def save(studies, number, **info):
    path = Path(studies.store._datastore_path).parent / f"label{number}.nii.gz"
    info = {"label_info": [{"name": "organ", "idx": 1}], **info}
    studies.store.save_label(f"s{number}", str(path), FINAL, info)


def segment(studies, number):
    image = studies.image(f"s{number}")
    studies.store_automatic(f"s{number}", image, studies.segment(f"s{number}", image))


def quality(studies, corrections, number):
    return studies.quality.of(studies.store.records(f"s{number}")[AUTOMATIC].provenance)["organ"]


def test_a_corrected_study_lowers_what_is_expected_of_the_others(studies, corrections):
    save(studies, 0)
    segment(studies, 1)
    segment(studies, 2)
    before = quality(studies, corrections, 2)
    save(studies, 1)
    corrections.learn(Control())
    after = quality(studies, corrections, 2)
    assert studies.quality.cases() == {"organ": 1}
    assert after.dice < before.dice - 0.03
    assert after.low <= after.dice <= after.high
    assert after.reason == before.reason


@pytest.fixture
def read(monkeypatch):
    """The masks that were read to learn from them."""
    paths = []

    def counted(path, image):
        paths.append(path)
        return read_label(path, image)

    monkeypatch.setattr(infers.study_list.corrections, "read_label", counted)
    return paths


def test_learning_that_is_stopped_again_and_again_goes_on_where_it_was(studies, corrections, read):
    save(studies, 0)
    for number in (1, 2, 3):
        segment(studies, number)
    for number in (1, 2, 3):
        save(studies, number)
    for done in range(3):
        with suppress(Cancelled):
            corrections.learn(StoppedWhen(lambda done=done: len(read) > done))
    corrections.learn(Control())
    assert studies.quality.cases() == {"organ": 3}
    assert len(read) == 3


def test_a_case_that_teaches_nothing_is_read_once(studies, corrections, read):
    save(studies, 0)
    segment(studies, 1)
    save(studies, 1, label_info=[{"name": "another", "idx": 1}])
    corrections.learn(Control())
    corrections.learn(Control())
    assert studies.quality.cases() == {}
    assert len(read) == 1


def test_a_mask_accepted_as_it_was_teaches_nothing(studies, corrections):
    save(studies, 0)
    segment(studies, 1)
    save(studies, 1, accepted="review board")
    corrections.learn(Control())
    assert studies.quality.cases() == {}


def test_templates_without_a_mask_are_segmented_by_the_others_once_and_kept(studies, corrections, tmp_path):
    for number in range(3):
        save(studies, number)
    corrections.check_templates(Control())
    asked = len(studies._segmenter().asked)
    assert (asked, studies.quality.cases()) == (3, {"organ": 3})
    corrections.check_templates(Control())
    assert len(studies._segmenter().asked) == asked
    again = Corrections(studies, tmp_path / "checks.json", PLAIN)
    again.learn(Control())
    assert studies.quality.cases() == {"organ": 3}
    assert AUTOMATIC not in studies.store.records("s0")


def test_a_label_saved_anew_is_checked_anew(studies, corrections):
    save(studies, 0)
    save(studies, 1)
    corrections.check_templates(Control())
    path = Path(studies.store._datastore_path) / "labels" / FINAL / "s0.nii.gz"
    half = organ_volume(0)[1]
    half[:, : half.shape[1] // 2] = 0
    write_nifti(path, half)
    studies.store.refresh()
    corrections.learn(Control())
    assert studies.quality.cases() == {"organ": 1}


def test_one_template_and_no_template_have_nothing_to_check(studies, corrections):
    corrections.check_templates(Control())
    save(studies, 0)
    corrections.check_templates(Control())
    assert studies.quality.cases() == {}
    assert studies._segmenter().asked == []


def test_a_record_from_before_there_were_estimates_says_what_it_always_said():
    assert PredictedQuality().of(Provenance.from_json({"quality": {"organ": 0.4}}))["organ"].dice == 0.4
    assert PredictedQuality().of(Provenance.from_json({})) == {}


def test_a_broken_file_of_checks_is_made_anew(studies, tmp_path):
    (tmp_path / "checks.json").write_text("{broken")
    save(studies, 0)
    save(studies, 1)
    corrections = Corrections(studies, tmp_path / "checks.json", PLAIN)
    corrections.check_templates(Control())
    assert studies.quality.cases() == {"organ": 2}


def test_a_label_that_is_torn_is_left_out(studies, corrections, folder):
    save(studies, 0)
    for number in (1, 2):
        segment(studies, number)
        save(studies, number)
    (folder / "labels" / AUTOMATIC / "s1.nii.gz").write_bytes(b"torn")
    corrections.learn(Control())
    assert studies.quality.cases() == {"organ": 1}


def test_empty_masks_teach_nothing_and_break_nothing(studies, corrections):
    save(studies, 0)
    image = studies.image("s1")
    made = studies.segment("s1", image)
    made.mask[:] = 0
    empty = quality_record({"organ": estimate_quality({"expected": 0.0}, PLAIN)}, {"organ": {"expected": 0.0}})
    provenance = {**made.provenance, **empty}
    provenance.pop("quality_estimate")
    studies.store_automatic(
        "s1", image, Prediction(np.zeros_like(made.mask), made.labels, empty["quality"], provenance)
    )
    save(studies, 1)
    corrections.learn(Control())
    assert studies.quality.cases() == {}
