"""Calls from many threads to one pool: each waits for its own answer."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, TimeoutError
from typing import Any, Protocol, TypeVar

from lib.cluster.connection import ClusterError
from lib.cluster.pool import Done, Killed, Outcome, Pool
from lib.inference.control import Cancelled, Control

LOOK = 0.2  # seconds between looks whether a call is still wanted
IDLE = 0.5  # seconds
MOST_CRASHES = 3  # of an item


class Numbered(Protocol):
    """What is known by its number."""

    @property
    def number(self) -> int: ...


Item = TypeVar("Item", bound=Numbered)


class Calls:
    """A thread that works the pool.

    Args:
        pool: nobody else may use it.
    """

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._queue: queue.Queue[Any] = queue.Queue()
        self._waiting: dict[int, Future[Any]] = {}
        self._crashes: dict[int, int] = {}
        self._error: Exception | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cluster-calls", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether calls are still answered."""
        return self._error is None

    def call(self, item: Numbered, control: Control) -> Any:
        """What the pool makes of an item.

        Raises:
            Cancelled: the control stopped it; a worker that is at it finishes in vain.
            ClusterError: see `Pool.wait`, or the cluster was lost.
            RuntimeError: it killed its workers.
        """
        answer: Future[Any] = Future()
        self._waiting[item.number] = answer
        self._queue.put(item)
        while True:
            if self._error is not None:
                raise self._error
            try:
                return answer.result(LOOK)
            except TimeoutError:
                if control.stopped:
                    self._waiting.pop(item.number, None)
                    raise Cancelled("the work was stopped") from None

    def abandon(self, error: Exception) -> ClusterError:
        """Answer no more calls, for the cluster was lost by this error: whoever waits is told, and may join it anew."""
        if not isinstance(self._error, ClusterError):
            lost = ClusterError(
                f"the Ray cluster was lost ({type(error).__name__}: {str(error)[:200]}): see to its head"
            )
            self._error = error if isinstance(error, ClusterError) else lost
        return self._error

    def close(self) -> None:
        """End the workers, whatever they are at."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                self._submit()
                if self._pool.busy or not self._pool.prepared:
                    for outcome in self._pool.wait(LOOK):
                        self._take(outcome)
            self._error = Cancelled("the cluster was left")
            self._pool.close()
        except Exception as error:
            self.abandon(error)

    def _submit(self) -> None:
        while self._pool.has_room():
            try:
                item = self._queue.get(timeout=0 if self._pool.busy else IDLE)
            except queue.Empty:
                return
            if item.number in self._waiting:
                self._pool.submit(item)

    def _take(self, outcome: Outcome[Any]) -> None:
        number = outcome.item.number
        answer = self._waiting.get(number)
        if answer is None:  # nobody waits for it any more
            return
        if isinstance(outcome, Done):
            del self._waiting[number]
            if isinstance(outcome.result, Exception):
                answer.set_exception(outcome.result)
            else:
                answer.set_result(outcome.result)
        elif isinstance(outcome, Killed):
            self._crashes[number] = self._crashes.get(number, 0) + 1
            if self._crashes[number] < MOST_CRASHES:
                self._queue.put(outcome.item)
                return
            del self._waiting[number]
            answer.set_exception(
                RuntimeError(f"it killed its worker {MOST_CRASHES} times, the last time so: {outcome.reason}")
            )
        else:
            self._queue.put(outcome.item)
