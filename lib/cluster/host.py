"""The actor: a process of the cluster that holds something dear (a network, templates) and works with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from lib.cluster.begun import BegunItem
from lib.cluster.identity import Identity, own_identity

Work = Callable[[Any], Any]


class Away(Exception):
    """Raised by work that failed for no fault of its item: a disk is full, a server away. It is to be tried again."""


class Host:
    """One process, asked for one item at a time."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._begun: BegunItem | None = None

    def greet(self) -> tuple[Identity, str]:
        """What it would compute with, and where it is."""
        return own_identity(), f"{socket.gethostname()}:{os.getpid()}"

    def prepare(self, make: Callable[[], Work], begun: BegunItem) -> None:
        """Make what it works with; from now on it notes which item it is at."""
        self._work, self._begun = make(), begun

    def work(self, number: int, item: Any) -> tuple[str, Any]:
        """("done", result), or ("away", why): an error that would not unpickle must not hide behind another."""
        assert self._work is not None
        assert self._begun is not None
        self._begun.write(number)
        try:
            return "done", self._work(item)
        except Away as error:
            return "away", str(error)
