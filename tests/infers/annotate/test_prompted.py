"""Prompts that are stored as templates, and labels that are not to replace what nobody saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infers.annotate.prompted import PromptedStudies, check_seen
from infers.board.decisions import version_of
from infers.errors import ClientError
from infers.label_records import FINAL, PROMPTED, LabelRecord, Statement
from infers.records import RecordError
from infers.store.datastore import StoredLabel, StudyStore
from infers.tasks.oneprompt import Engine
from lib.imaging.images import read_label
from tests.infers.tasks.fakes import make_engine_of_one_study
from tests.samples import organ_volume, write_nifti

CLICK = {"foreground": [[3, 4, 5]]}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine_of_one_study(tmp_path)


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def prompted(engine: Engine, changes: list[str]) -> PromptedStudies:
    return PromptedStudies(engine, lambda: changes.append("changed"))


def stored(engine: Engine, tag: str) -> StoredLabel | None:
    store = engine.studies.store
    assert isinstance(store, StudyStore)
    return store.label("s0", tag)


def paint(engine: Engine, folder: Path, name: str) -> StoredLabel:
    """A person's label of the study."""
    path = write_nifti(folder / "label.nii.gz", organ_volume(0)[1])
    record = LabelRecord(Statement(client_id=name), structures={"organ": 1})
    engine.studies.store.save("s0", path, FINAL, record)
    label = stored(engine, FINAL)
    assert label
    return label


def test_prompts_are_stored_with_the_answer_to_them_and_who_says_so(
    engine: Engine, prompted: PromptedStudies, changes: list[str]
) -> None:
    answer = prompted.save("s0", {"organ": CLICK}, Statement(client_id="page"), "anna")
    label = stored(engine, PROMPTED)
    assert label
    assert (label.record.prompts, label.record.structures) == ({"organ": CLICK}, {"organ": 1})
    assert (label.record.author, label.record.statement.client_id) == ("anna", "page")
    mask = read_label(label.path, engine.studies.image("s0"))
    assert np.argwhere(mask).tolist() == [[3, 4, 5]]
    assert answer["prompt_types"] == {"organ": ["click"]}
    assert changes == ["changed"]


def test_prompts_that_no_record_may_hold_are_refused_and_nothing_is_stored(
    engine: Engine, prompted: PromptedStudies
) -> None:
    with pytest.raises(RecordError, match="characters"):
        prompted.save("s0", {"organ": {"foreground_scribbles": [[0, 0, 0]] * 2**19}}, Statement(), None)
    assert stored(engine, PROMPTED) is None


def test_newer_prompts_take_the_place_of_older_ones(engine: Engine, prompted: PromptedStudies) -> None:
    box = {"roi": [1, 8, 1, 8, 2, 5], "foreground": [[4, 4, 4]]}
    prompted.save("s0", {"organ": CLICK}, Statement(), None)
    answer = prompted.save("s0", {"lesion": box}, Statement(), None)
    label = stored(engine, PROMPTED)
    assert label
    assert label.record.prompts == {"lesion": box}
    assert answer["prompt_types"] == {"lesion": ["bbox", "click"]}


def test_a_name_in_other_capitals_is_the_structure_that_the_list_knows(
    engine: Engine, prompted: PromptedStudies
) -> None:
    engine.labels.learn(["Organ"])
    assert prompted.save("s0", {" oRGAN ": CLICK}, Statement(), None)["structures"] == {"Organ": 1}
    label = stored(engine, PROMPTED)
    assert label
    assert label.record.prompts == {"Organ": CLICK}
    with pytest.raises(ClientError, match="each structure once"):
        prompted.save("s0", {"organ": CLICK, "ORGAN": CLICK}, Statement(), None)


@pytest.mark.parametrize(
    ("told", "why"),
    [({"organ": {"background": [[1, 1, 1]]}}, "where the structure is"), ({"organ": {"clicks": []}}, "must be among")],
)
def test_prompts_that_say_nothing_are_refused_and_nothing_is_stored(
    engine: Engine, prompted: PromptedStudies, changes: list[str], told: dict[str, object], why: str
) -> None:
    with pytest.raises(ClientError, match=why):
        prompted.save("s0", told, Statement(), None)
    assert stored(engine, PROMPTED) is None
    assert changes == []


def test_a_painted_study_takes_no_prompts(engine: Engine, prompted: PromptedStudies, tmp_path: Path) -> None:
    paint(engine, tmp_path, "anna")
    with pytest.raises(ClientError, match="has a label already") as caught:
        prompted.save("s0", {"organ": CLICK}, Statement(), None)
    assert caught.value.status == 409


def test_a_label_that_nobody_saw_is_not_to_be_replaced(engine: Engine, tmp_path: Path) -> None:
    label = paint(engine, tmp_path, "anna")
    check_seen(label, version_of(label))
    check_seen(None, "")
    with pytest.raises(ClientError, match="anna saved a label for this study meanwhile"):
        check_seen(label, "")
    with pytest.raises(ClientError, match="taken away meanwhile"):
        check_seen(None, version_of(label))
