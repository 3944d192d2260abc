"""Whom a thread computes for: work asks its client's control, and ends where nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lib.inference.control import Control


class Client(Control):
    """Somebody who waits for an answer, until `leave`."""

    def __init__(self) -> None:
        self._gone = threading.Event()

    def leave(self) -> None:
        """Nobody waits any more."""
        self._gone.set()

    @property
    def stopped(self) -> bool:
        """Whether the client hung up."""
        return self._gone.is_set()


_client: ContextVar[Control | None] = ContextVar("client", default=None)


@contextmanager
def serving(client: Control) -> Iterator[None]:
    """What is computed within, in this thread or in those that are started for it, is for this client."""
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


def client_control() -> Control:
    """The control of whom this thread computes for; one that never stops where that is nobody."""
    return _client.get() or Control()
