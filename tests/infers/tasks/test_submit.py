"""The model whose run saves what was answered last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infers.errors import ClientError
from infers.label_records import FINAL
from infers.tasks.oneprompt import Engine, tasks
from infers.tasks.submit import SubmitTask
from lib.imaging.images import Image, read_label
from lib.segmenters.contract import Prediction
from tests.infers.tasks.fakes import make_engine_of_one_study
from tests.samples import organ_volume, write_nifti

STUDY = {"image_id": "s0", "user": "anna"}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine_of_one_study(tmp_path)


@pytest.fixture
def image(engine: Engine) -> Image:
    return engine.studies.image("s0")


def click(engine: Engine, image: Image, name: str, *voxel: int, **more: Any) -> Prediction:
    return tasks(engine)["oneprompt_click"].predict({**STUDY, "label": name, "foreground": [voxel], **more}, image)


def final(engine: Engine, image: Image) -> np.ndarray:
    label = engine.studies.store.label("s0", FINAL)
    assert label
    return read_label(label.path, image)


def test_the_last_results_of_each_structure_become_the_label_that_is_answered(engine: Engine, image: Image) -> None:
    click(engine, image, "organ", 3, 3, 3)
    click(engine, image, "lesion", 9, 9, 4)
    click(engine, image, "organ", 5, 5, 5)
    answer = SubmitTask(engine).predict(STUDY, image)
    assert answer.labels == {"lesion": 1, "organ": 2}
    assert {name: np.argwhere(answer.mask == value).tolist() for name, value in answer.labels.items()} == {
        "organ": [[5, 5, 5]], "lesion": [[9, 9, 4]],
    }  # fmt: skip
    assert answer.provenance == {"saved": ["lesion", "organ"], "following_studies": 0}
    np.testing.assert_array_equal(final(engine, image), answer.mask)
    record = engine.studies.store.label("s0", FINAL)
    assert record
    assert record.record.author == "anna"


def test_nothing_is_saved_twice_or_without_a_result(engine: Engine, image: Image) -> None:
    submit = SubmitTask(engine)
    with pytest.raises(ClientError, match="no result to submit"):
        submit.predict(STUDY, image)
    click(engine, image, "organ", 3, 3, 3)
    submit.predict(STUDY, image)
    with pytest.raises(ClientError, match="no result to submit"):
        submit.predict(STUDY, image)
    with pytest.raises(ClientError, match="a study of the list"):
        submit.predict({}, image)


def test_a_result_that_waits_for_quiet_is_saved_at_once(engine: Engine, image: Image) -> None:
    engine.acceptance.put("s0", click(engine, image, "organ", 3, 3, 3))
    engine.recent.forget("s0")
    assert SubmitTask(engine).predict(STUDY, image).labels == {"organ": 1}
    assert engine.acceptance.waiting() == []


def test_a_label_that_a_person_submitted_stays(engine: Engine, image: Image, tmp_path: Path) -> None:
    painted = organ_volume(0)[1]
    path = write_nifti(tmp_path / "label.nii.gz", painted)
    store: Any = engine.studies.store
    store.save_label("s0", str(path), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    click(engine, image, "organ", 0, 0, 0)
    with pytest.raises(ClientError, match="which stays") as caught:
        SubmitTask(engine).predict(STUDY, image)
    assert caught.value.status == 409
    np.testing.assert_array_equal(final(engine, image), painted)


def test_results_of_single_slices_say_nothing_of_the_others_and_are_not_saved(engine: Engine, image: Image) -> None:
    tasks(engine)["oneprompt_slice"].predict({**STUDY, "label": "organ", "foreground": [[3, 3, 3]]}, image)
    with pytest.raises(ClientError, match="no result to submit"):
        SubmitTask(engine).predict(STUDY, image)
