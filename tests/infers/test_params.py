import itertools
import math

import pytest

from infers.errors import ClientError
from infers.guards import checked
from infers.params import BatchParams, TrainParams
from infers.prompts import StructurePrompts
from infers.tasks.request import AnswerForm, Clicks, Painted, Wanted


def test_a_training_gets_what_was_said_and_nothing_else():
    said = {"max_epochs": "3", "name": "train_02", "keep": "false", "mode": ["norms", "full"], "device": None}
    assert checked(TrainParams, said).given() == {"max_epochs": 3, "name": "train_02", "keep": False, "mode": "norms"}
    assert checked(TrainParams, None).given() == {}


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ({"bundle_path": "/tmp"}, "must be among max_epochs, .*; got 'bundle_path'"),
        ({"name": "../up"}, "name must be a plain name"),
        ({"tracking_run_name": "a/b"}, "tracking_run_name must be a plain name"),
        ({"max_epochs": 0}, "max_epochs must be a whole number from 1 on, got 0"),
        ({"steps_per_epoch": -1}, "from 1 on, got -1"),
        ({"train_batch_size": "many"}, "from 1 on, got 'many'"),
        ({"max_epochs": 1.5}, "from 1 on, got 1.5"),
        ({"learning_rate": "fast"}, "a learning rate, 0 or more, got 'fast'"),
        ({"mode": "half"}, "one of full, norms, lora, got 'half'"),
        ({"keep": "perhaps"}, "true or false, got 'perhaps'"),
    ],
)
def test_what_no_training_may_be_told_is_refused_with_what_it_may(params, hint):
    with pytest.raises(ClientError, match=hint):
        checked(TrainParams, params)


def test_a_batch_takes_studies_and_a_tag():
    said = {"images": ["s0", "s1"], "label_tag": "original", "max_batch_size": "8"}
    assert checked(BatchParams, said).given() == {**said, "max_batch_size": 8}
    for wrong, hint in (({"images": 7}, "a list of ids, got 7"), ({"label_tag": "../up"}, "label_tag must be a plain")):
        with pytest.raises(ClientError, match=hint):
            checked(BatchParams, wrong)


@pytest.mark.parametrize("model", [TrainParams, BatchParams, Clicks, Wanted, Painted, AnswerForm, StructurePrompts])
def test_no_value_of_any_key_is_answered_with_another_error_than_a_refusal_in_words(model):
    odd = (None, "", "x", "full", "\0", "\ud800", "1" * 10**6, 0, -1, 1.5, True, math.nan, 2**62, [], {}, [None], [[]],
           [{}], ["x"], [1, 2], [[1, 2, 3]], {"x": None}, {"0": [1]})  # fmt: skip
    accepted, refusals = 0, []
    for key, value in itertools.product(model.model_fields, odd):
        try:
            checked(model, {key: value})
            accepted += 1
        except ClientError as error:
            refusals.append(str(error))
    assert accepted >= len(model.model_fields)
    assert refusals
    assert all("must" in words for words in refusals)


@pytest.mark.parametrize(
    ("model", "params", "hint"),
    [
        (TrainParams, {"gpus": "0\0"}, "up to 200 printable"),
        (TrainParams, {"device": "x" * 201}, "up to 200 printable"),
        (TrainParams, {"client_id": "\ud800"}, "up to 200 printable"),
        (BatchParams, {"logging": "\n"}, "up to 200 printable"),
        (BatchParams, {"images": ["s" * 200] * 1000}, "at most 100000 characters.*say unlabeled"),
    ],
)
def test_what_no_process_can_be_started_with_is_refused(model, params, hint):
    with pytest.raises(ClientError, match=hint):
        checked(model, params)
