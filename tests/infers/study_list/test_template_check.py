from pathlib import Path

import numpy as np
import pytest

from infers.label_records import AUTOMATIC, FINAL
from infers.study_list.template_check import TemplateCheck
from lib.inference.control import Cancelled, Control
from lib.quality.estimate import estimate_quality, quality_record
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Prediction
from tests.infers.fakes import FakePredictor, StoppedWhen, make_studies
from tests.samples import organ_volume, write_nifti

PLAIN = Estimator(["reverse"], [0.5], [0.25], [[{"weights": [[1.0]], "bias": [0.0]}]])
EVIDENCE = {"size": 0.2, "reverse": 0.2, "copies": 0.4}
COUNT = 8


class Unsure(FakePredictor):
    """Never thinks much of its masks."""

    def segment(self, image, templates, labels, *, control=Control(), second=None):
        made = super().segment(image, templates, labels, control=control, second=second)
        record = quality_record(
            {name: estimate_quality(EVIDENCE, PLAIN) for name in labels}, {name: EVIDENCE for name in labels}
        )
        return Prediction(made.mask, made.labels, record["quality"], {**made.provenance, **record})


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(COUNT):
        image, label = organ_volume(1)
        image = image + np.random.default_rng(number).normal(0, 0.2, image.shape)
        write_nifti(folder / f"s{number}.nii.gz", (image if number else image[::-1].copy() * -1).astype(np.float32))
        write_nifti(tmp_path / f"label{number}.nii.gz", label)
    return make_studies(str(folder), Unsure())


@pytest.fixture
def health(studies, tmp_path):
    return TemplateCheck(studies)


def save(studies, number):
    path = Path(studies.store._datastore_path).parent / f"label{number}.nii.gz"
    studies.store.save_label(f"s{number}", str(path), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})


def test_a_poor_template_is_warned_of_with_a_better_one_after_three_trials(studies, health):
    save(studies, 0)
    health.examine(Control())
    found = health.status()
    assert found["typical"] == {"s0": 0}
    assert found["better"] in {f"s{number}" for number in range(1, COUNT)}
    assert len(found["trial"]) == 3
    assert found["copies"] == {"organ": 0.4}
    assert len(found["warnings"]) == 4
    assert sum(AUTOMATIC in studies.store.records(f"s{number}") for number in range(COUNT)) == 3
    assert len(studies.pending()) == COUNT - 1 - 3  # the trial's masks are kept


def test_nothing_is_tried_again_until_the_templates_change(studies, health):
    save(studies, 1)
    health.examine(Control())
    asked = len(studies._segmenter().asked)
    health.examine(Control())
    assert len(studies._segmenter().asked) == asked
    save(studies, 2)
    health.examine(Control())
    assert len(studies._segmenter().asked) > asked


def test_without_a_template_there_is_nothing_to_say(studies, health):
    health.examine(Control())
    assert health.status()["warnings"] == []
    assert studies._segmenter().asked == []


def test_a_list_of_a_single_study_is_no_error(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    write_nifti(folder / "s0.nii.gz", organ_volume(0)[0])
    write_nifti(tmp_path / "label0.nii.gz", organ_volume(0)[1])
    studies = make_studies(str(folder), Unsure())
    save(studies, 0)
    health = TemplateCheck(studies)
    health.examine(Control())
    assert health.status() == {"typical": {}, "better": None, "copies": {}, "trial": {}, "warnings": []}


def test_a_study_that_cannot_be_read_is_left_out(studies, health):
    (Path(studies.store._datastore_path) / "s3.nii.gz").write_bytes(b"torn")
    save(studies, 1)
    health.examine(Control())
    assert "s3" not in health.status()["trial"]


def test_cancelling_ends_the_trial_and_it_is_done_another_time(studies, health):
    save(studies, 1)
    with pytest.raises(Cancelled):
        health.examine(StoppedWhen(lambda: True))
    health.examine(Control())
    assert len(health.status()["trial"]) == 3
