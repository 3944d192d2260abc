"""What a record says, what of it a client may say, and that nothing of it is lost between JSON and the objects."""

from dataclasses import replace

import pytest

from infers.label_records import (
    AS_RESULT,
    ON_BOARD,
    LabelRecord,
    Provenance,
    Rejection,
    Statement,
    StructureScore,
)

MASK = {
    "model": "oneprompt",
    "params": {
        "key": "f",
        "basis": "t",
        "image_stamp": "i",
        "templates": ["s0"],
        "label_names": {"other": 1, "organ": 2},
        "structures": {"organ": 2},
        "weights": "w",
        "quality": {"organ": 0.7},
        "quality_interval": {"organ": [0.5, 0.9]},
        "prompt_types": {"organ": ["mask"]},
    },
    "rejected": {"user": "bert", "ts": 7},
    "score": {"organ": {"dice": 0.75, "surface_mm": 1.5}},
    "ts": 5,
    "name": "s1.nii.gz",
}
SUBMITTED = {
    "label_info": [{"name": "organ", "idx": 1}],
    "client_id": "slicer",
    "user": "anna",
    "structures": {"organ": 1},
    "template": False,
    "comment": {"seen": ["twice"]},
    "dicom_seg_seen": ["1.2.3"],
    "dicom_seg_problem": "full",
    "ts": 5,
    "name": "s0.nii.gz",
}
ACCEPTED = {
    "user": "ada",
    "accepted": ON_BOARD,
    "label_info": [{"name": "organ", "idx": 2}],
    "structures": {"organ": 2},
    "provenance": {**MASK["params"], "model": "oneprompt"},
}


@pytest.mark.parametrize("data", [MASK, SUBMITTED, ACCEPTED, {}, {"note": 1}, {"model": "another program", "n": 2}])
def test_a_record_is_written_as_it_was_read(data):
    assert LabelRecord.from_json(data).to_json() == data


def test_the_fields_of_a_mask_are_typed():
    record = LabelRecord.from_json(MASK)
    made = record.made_by({"oneprompt", "another"})
    assert (made.fingerprint, made.template_fingerprint, made.image_stamp, made.weights) == ("f", "t", "i", "w")
    assert made.templates == ("s0",)
    assert made.names == {"organ": 2}
    assert (made.quality["organ"].dice, made.quality["organ"].low) == (0.7, 0.5)
    assert record.rejected == Rejection("bert", 7)
    assert record.score == {"organ": StructureScore(0.75, 1.5)}
    assert record.inferred


def test_a_mask_is_ours_if_any_of_our_models_made_it():
    record = LabelRecord(provenance=Provenance("promptseg"))
    assert record.made_by({"oneprompt"}) is None
    assert record.made_by({"oneprompt", "promptseg"}) is not None
    accepted = replace(record, accepted=ON_BOARD)
    assert accepted.made_by({"promptseg"}) is None  # it is a person's now


def test_what_clients_may_say_follows_from_the_types():
    everything = {**MASK, **SUBMITTED, **ACCEPTED}
    statement = Statement.from_json(everything)
    assert statement.to_json() == {
        "label_info": ACCEPTED["label_info"],
        "client_id": "slicer",
        "comment": {"seen": ["twice"]},
        "model": "oneprompt",
    }
    record = LabelRecord(statement, author="carl")
    assert record == LabelRecord.from_json(record.to_json())
    assert record.provenance is None
    assert record.made_by({"oneprompt"}) is None


def test_a_description_adds_to_what_was_said_and_changes_nothing_else():
    before = LabelRecord.from_json(SUBMITTED)
    after = before.described(Statement.from_json({"comment": "new", "shift": 3, "accepted": AS_RESULT}), "bert")
    assert after.to_json() == {**SUBMITTED, "comment": "new", "shift": 3, "user": "bert"}


def test_accepted_labels_that_name_no_model_are_of_the_one_there_was():
    made = LabelRecord.from_json({"accepted": ON_BOARD, "provenance": {"weights": "w"}}).provenance
    assert (made.model, made.weights) == ("oneprompt", "w")


@pytest.mark.parametrize("wrong", [7, "text", [1], None])
@pytest.mark.parametrize("key", ["structures", "provenance", "rejected", "score", "params", "ts", "dicom_seg_seen"])
def test_a_value_of_a_form_that_no_version_wrote_counts_as_nothing(key, wrong):
    record = LabelRecord.from_json({"model": "oneprompt", key: wrong})
    assert record.provenance is None
    assert record.rejected is None
    assert not record.score
    assert record.structures is None
