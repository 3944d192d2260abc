"""Something made of a file, and made anew when the file changes; who asks meanwhile may be answered by the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from lib.imaging.stamps import stamp_of

Loaded = TypeVar("Loaded")


class Reloading(Generic[Loaded]):
    """What a file holds now; nothing is made before it is needed. It may be asked from several threads.

    Args:
        path: need not exist.
        without: makes what there is without the file, which is also had while the file is read for the first time.
        load: makes what comes next, from whether the file exists and what was there before.
    """

    def __init__(self, path: Path, without: Callable[[], Loaded], load: Callable[[bool, Loaded], Loaded]) -> None:
        self.path, self._without, self._load = path, without, load
        self._lock = threading.Lock()
        self._loaded: tuple[Loaded, object] | None = None  # with the file's stamp; exchanged in one assignment

    @property
    def loaded(self) -> Loaded | None:
        """What was loaded last, however old; None before the first time."""
        return self._loaded[0] if self._loaded else None

    def current(self, wait: bool = True) -> Loaded:
        """What the file holds now. Raises what making it raises.

        Args:
            wait: for another thread that is loading it; otherwise what was there before is given, if anything was.
        """
        if not self._is_current() and self._lock.acquire(blocking=wait or self._loaded is None):
            try:
                if self._loaded is None:
                    self._loaded = (self._without(), None)
                if not self._is_current():
                    stamp = stamp_of(self.path)
                    self._loaded = (self._load(stamp is not None, self._loaded[0]), stamp)
            finally:
                self._lock.release()
        assert self._loaded is not None
        return self._loaded[0]

    def _is_current(self) -> bool:
        return self._loaded is not None and self._loaded[1] == stamp_of(self.path)
