"""Which tasks of a model an image or a request means."""

import json

import pytest

from lib.segmenters.uniseg.tasks import Channel, Task, TaskError, Window, check_channels, fitting, guess_modality, named

CT = Channel("CT", Window(-325, 325, -325, 650))
TASKS = (
    Task("liver", ("liver", "liver tumour"), (CT,), (3.0, 1.5, 1.5)),
    Task("prostate", ("prostate",), (Channel("MR"),), (3.0, 1.5, 1.5)),
    Task("whole body", ("tumour",), (CT, Channel("PT")), (8.0, 4.0, 4.0)),
)


def test_tasks_are_found_by_their_names_and_by_their_structures() -> None:
    assert named(TASKS, ["liver tumour", "whole body"]) == [0, 2]


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        TaskError, match=r"does not know heart: its tasks are liver \(liver, liver tumour; CT\); prostate"
    ):
        named(TASKS, ["liver", "heart"])


@pytest.mark.parametrize(
    ("channels", "modality", "found"),
    [(1, "CT", [0]), (1, "MR", [1]), (1, "T2", [1]), (1, None, [0, 1]), (2, "CT", [2])],
)
def test_tasks_fit_by_modality_and_number_of_channels(channels: int, modality: str | None, found: list[int]) -> None:
    assert fitting(TASKS, channels, modality) == found


def test_an_image_that_no_task_takes_is_refused() -> None:
    with pytest.raises(TaskError, match="no task of UniSeg takes an image of 1 channel of modality US"):
        fitting(TASKS, 1, "US")
    with pytest.raises(TaskError, match=r"whole body takes 2 channels \(CT, PT\), got 1"):
        check_channels(TASKS[2:], 1)


def test_grey_values_tell_ct_apart() -> None:
    assert guess_modality(-1024, TASKS) == "CT"
    assert guess_modality(0, TASKS) == "MR"
    assert guess_modality(0, TASKS[:1]) is None


def test_a_task_survives_json_and_refuses_what_is_none() -> None:
    for task in TASKS:
        assert Task.from_dict(json.loads(json.dumps(task.as_dict()))) == task
    with pytest.raises(ValueError, match="must differ"):
        Task("twice", ("a", "a"), (CT,), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="low < high"):
        Window(5, 5, 0, 1)
