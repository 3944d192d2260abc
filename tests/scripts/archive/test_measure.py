"""How much faster more workers are: what is counted of a run, and what is not."""

import pytest

from scripts.archive.measure import steady_speed


def rows(**finished):
    """Rows of a manifest from {worker: when each of its studies was finished}."""
    return [
        {"worker": worker, "study": f"{worker}{number}", "finished": at}
        for worker, times in finished.items()
        for number, at in enumerate(times)
    ]


def test_two_workers_that_do_not_hinder_each_other_do_two_seconds_of_work_a_second():
    work = dict.fromkeys([f"{worker}{number}" for worker in "ab" for number in range(4)], 10.0)
    assert steady_speed(rows(a=[10, 20, 30, 40], b=[12, 22, 32, 42]), work) == pytest.approx(2)


def test_the_first_study_of_a_worker_and_what_it_does_alone_at_the_end_are_left_out():
    found = rows(a=[50, 60, 70], b=[30, 40, 50, 60, 70, 170])
    work = dict.fromkeys([row["study"] for row in found], 10.0)
    labelled = {"worker": "b", "study": "labelled", "finished": 1.0}  # cost nothing
    assert steady_speed([*found, labelled], work) == pytest.approx(2)


def test_workers_that_share_one_processor_are_no_faster_than_one():
    work = dict.fromkeys([f"{worker}{number}" for worker in "ab" for number in range(4)], 10.0)
    assert steady_speed(rows(a=[20, 40, 60, 80], b=[20, 40, 60, 80]), work) == pytest.approx(1)


def test_an_archive_too_small_to_tell_is_refused():
    with pytest.raises(ValueError, match="give a larger archive"):
        steady_speed(rows(a=[10, 20], b=[12]), dict.fromkeys(["a0", "a1", "b0"], 10.0))
