"""Who has a study open on the annotation page: two people on one study are told of each other.

Kept in memory only: a page says every few seconds that it is there, and whoever is silent for a while has left.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

SILENT = 40.0  # seconds after which a page is thought closed; it speaks up every 10


@dataclass(frozen=True)
class Visitor:
    """A page that has a study open: who works there, since when, and when it was heard of last (seconds, monotonic)."""

    name: str
    since: float
    heard: float


class Presence:
    """The pages that are open, by study."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visitors: dict[str, dict[str, Visitor]] = {}

    def enter(self, image_id: str, session: str, name: str) -> list[dict[str, object]]:
        """A page says that it has a study open; returns the others as `name` and `minutes` that they have been there.

        Args:
            session: the page's own mark, so that it is not told of itself.
            name: whom it says that it is used by.
        """
        now = time.monotonic()
        with self._lock:
            there = self._there(image_id, now)
            former = there.get(session)
            there[session] = Visitor(name, former.since if former else now, now)
            self._visitors[image_id] = there
            others = [visitor for mark, visitor in there.items() if mark != session]
        return [{"name": visitor.name, "minutes": int((now - visitor.since) // 60)} for visitor in others]

    def leave(self, image_id: str, session: str) -> None:
        """A page closes a study, or goes on to another."""
        with self._lock:
            there = self._there(image_id, time.monotonic())
            there.pop(session, None)
            self._visitors[image_id] = there
            if not there:
                del self._visitors[image_id]

    def _there(self, image_id: str, now: float) -> dict[str, Visitor]:
        known = self._visitors.get(image_id, {})
        return {mark: visitor for mark, visitor in known.items() if now - visitor.heard < SILENT}
