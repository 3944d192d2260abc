"""Who has a study open on the annotation page: two people on one study are told of each other.

Kept in memory only: a page says every few seconds that it is there, and whoever is silent for a while has left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache

SILENT = 40.0  # seconds after which a page is thought closed; it speaks up every 10
MOST = 1000  # pages on all studies; of more, those that were silent longest are thought closed


@dataclass(frozen=True)
class Visitor:
    """A page that has a study open: who works there, and since when (seconds, monotonic)."""

    name: str
    since: float


class Presence:
    """The pages that are open.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._visitors: TTLCache[tuple[str, str], Visitor] = TTLCache(MOST, SILENT, clock)  # by study and page

    def enter(self, image_id: str, session: str, name: str) -> list[dict[str, object]]:
        """A page says that it has a study open; returns the others as `name` and `minutes` that they have been there.

        Args:
            session: the page's own mark, so that it is not told of itself.
            name: whom it says that it is used by.
        """
        now, own = self._clock(), (image_id, session)
        with self._lock:
            former = self._visitors.pop(own, None)
            self._visitors[own] = Visitor(name, former.since if former else now)
            others = [one for key, one in self._visitors.items() if key[0] == image_id and key != own]
        return [{"name": visitor.name, "minutes": int((now - visitor.since) // 60)} for visitor in others]

    def leave(self, image_id: str, session: str) -> None:
        """A page closes a study, or goes on to another."""
        with self._lock:
            self._visitors.pop((image_id, session), None)
