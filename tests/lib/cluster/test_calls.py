"""Calls from many threads to one pool: what each caller gets when workers answer, die, or are lost."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import pytest

from lib.cluster.calls import MOST_CRASHES, Calls
from lib.cluster.connection import ClusterError
from lib.cluster.pool import Done, Killed, Unavailable
from lib.inference.control import Cancelled, Control


@dataclass(frozen=True)
class Item:
    number: int


class FakePool:
    """One worker; `work` says what becomes of an item that is begun for the nth time."""

    prepared = 1

    def __init__(self, work: Callable[[Item, int], Any]) -> None:
        self._work, self._items, self.begun = work, [], Counter()
        self.closed = False

    @property
    def busy(self) -> int:
        return len(self._items)

    def has_room(self) -> bool:
        return not self._items

    def submit(self, item: Item) -> None:
        self.begun[item.number] += 1
        self._items.append(item)

    def wait(self, seconds: float) -> list[Any]:
        item = self._items.pop()
        return [self._work(item, self.begun[item.number])]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr("lib.cluster.calls.LOOK", 0.01)
    monkeypatch.setattr("lib.cluster.calls.IDLE", 0.01)


@contextmanager
def calls(work: Callable[[Item, int], Any]) -> Iterator[tuple[Calls, FakePool]]:
    pool = FakePool(work)
    calls = Calls(pool)
    try:
        yield calls, pool
    finally:
        calls.close()


def test_each_caller_gets_the_answer_to_its_own_item():
    with calls(lambda item, _: Done(item, 10 * item.number)) as (some, pool):
        assert [some.call(Item(number), Control()) for number in (1, 2)] == [10, 20]
    assert pool.closed


def test_an_error_of_the_work_is_raised_where_it_is_waited_for():
    with calls(lambda item, _: Done(item, KeyError("no template"))) as (some, _), pytest.raises(KeyError):
        some.call(Item(1), Control())


def test_an_item_whose_worker_died_or_that_could_not_be_worked_on_is_tried_again():
    def work(item, attempt):
        return [Killed(item, "out of memory"), Unavailable(item, "disk full"), Done(item, "mask")][attempt - 1]

    with calls(work) as (some, pool):
        assert some.call(Item(1), Control()) == "mask"
    assert pool.begun[1] == 3


def test_an_item_that_kills_its_worker_three_times_is_given_up_with_the_reason_and_others_go_on():
    def work(item, _):
        return Killed(item, "signal 9") if item.number == 1 else Done(item, "mask")

    with calls(work) as (some, pool):
        with pytest.raises(RuntimeError, match="killed its worker 3 times, the last time so: signal 9"):
            some.call(Item(1), Control())
        assert some.call(Item(2), Control()) == "mask"
    assert pool.begun[1] == MOST_CRASHES


def test_a_lost_cluster_is_told_to_whoever_waits_and_to_all_later_callers():
    def work(item, _):
        raise ConnectionError("the head is gone")

    with calls(work) as (some, _):
        for number in (1, 2):
            with pytest.raises(ClusterError, match=r"was lost \(ConnectionError: the head is gone\): see to its head"):
                some.call(Item(number), Control())
        assert not some.alive


def test_a_caller_that_is_stopped_waits_no_longer():
    answered = Event()

    class Stopped(Control):
        stopped = True

    def work(item, _):
        answered.wait()
        return Done(item, "in vain")

    with calls(work) as (some, _):
        with pytest.raises(Cancelled):
            some.call(Item(1), Stopped())
        answered.set()
