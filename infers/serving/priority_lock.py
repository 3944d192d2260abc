"""Whose turn it is at the network: a person who waits for an answer goes before the background job.

One computation runs at a time, because several on one processor or one GPU only slow each other down. The job asks at
every batch whether somebody waits (`give_way`), so a person waits for one batch, not for one study.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PriorityLock:
    """Turns at the network."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self._waiting = 0  # people, not jobs

    @property
    def waiting(self) -> int:
        """How many people wait for their turn."""
        with self._condition:
            return self._waiting

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Take a turn for a person: next as soon as whoever computes finishes or gives way."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._busy)
            finally:
                self._waiting -= 1
            self._busy = True
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def background(self) -> Iterator[None]:
        """Take a turn for the job: when nobody computes and nobody waits."""
        self._take_behind()
        try:
            yield
        finally:
            self._release()

    def give_way(self) -> None:
        """Inside `background`: let everyone who waits go first, then go on."""
        with self._condition:
            if not self._waiting:
                return
            self._busy = False
            self._condition.notify_all()
        self._take_behind()

    def _take_behind(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._busy and not self._waiting)
            self._busy = True

    def _release(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
