"""A study list that the release before wrote (commit 323aa8a): everything in it is read, and nothing is done again.

s0 and s4 were submitted (s4 over a mask that was scored, and by a second person), s1's mask was rejected, s2's was
accepted, s3 is an interactive result, s5 has a mask, on s6 a result waits, and s7 is kept out of the templates.
"""

import json
import shutil
from pathlib import Path

import pytest

from infers.label_records import AUTOMATIC, FINAL, FORMER, LabelRecord, StructureScore
from infers.study_list.pending_results import PendingResults
from infers.study_list.rows import Rows
from tests.infers.fakes import FakePredictor, make_studies

FORMER_RELEASE = Path(__file__).parent / "former_release"


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    shutil.copytree(FORMER_RELEASE, folder)
    return make_studies(str(folder), FakePredictor())


def test_every_record_is_read_whole():
    written = json.loads((FORMER_RELEASE / "datastore_v2.json").read_text())
    records = [label["info"] for one in written["objects"].values() for label in one["labels"].values()]
    assert len(records) == 10
    for record in records:
        if "provenance" in record:
            record["provenance"]["model"] = "oneprompt"  # which records did not say while there was one
        assert LabelRecord.from_json(record).to_json() == record


def test_labels_are_what_they_were(studies):
    pending = PendingResults(studies.store.state / "offers")
    rows = {row.id: row for row in Rows(studies).make({}, [id for id, _ in pending.read()])}
    assert {id: row.status for id, row in rows.items()} == {
        "s0": "template", "s1": "rejected", "s2": "accepted", "s3": "template",
        "s4": "template", "s5": "automatic", "s6": "unlabelled", "s7": "excluded",
    }  # fmt: skip
    assert {id: row.author for id, row in rows.items() if row.author} == {
        "s0": "anna", "s1": "bert", "s2": "ada", "s3": "carl", "s4": "bert", "s7": "anna",
    }  # fmt: skip
    assert rows["s4"].score == {"organ": StructureScore(0.7947, 0.341)}
    assert rows["s6"].offered
    assert rows["s2"].templates == ("s0",)
    assert studies.templates().keys() == {"s0", "s2", "s3", "s4"}
    assert [(study.id, study.manually_annotated) for study in studies.labelled()] == [
        ("s0", True), ("s2", False), ("s3", True), ("s4", True),
    ]  # fmt: skip
    assert studies.store.label("s4", FORMER).record.author == "anna"
    assert studies.store.label("s0", FINAL).record.statement.notes == {"comment": "by hand"}


def test_a_mask_that_was_up_to_date_still_is(studies):
    assert studies.automatic("s5", studies.image("s5")) is not None
    assert studies.pending() == ["s6", "s1"]  # s1's templates had changed
    assert studies.store.records("s1")[AUTOMATIC].made_by(studies.models)
