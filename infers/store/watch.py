"""Notices when somebody else changes what is in a study folder or on a server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from infers.errors import reason_of

logger = logging.getLogger(__name__)

SETTLE = 0.3  # seconds: copying a series makes hundreds of events, one look at the folder is enough
LOOK_AGAIN = 60.0  # seconds: network mounts send no events


def if_other(measure: Callable[[], object], changed: Callable[[], None]) -> Callable[[], None]:
    """What calls `changed` only where `measure` gives something else than it gave the last time."""
    last = measure()

    def compare() -> None:
        nonlocal last
        if (now := measure()) != last:
            changed()
            last = now

    return compare


_AWAY = object()


def keep_looking(measure: Callable[[], object], changed: Callable[[], None], pause: float) -> NoReturn:
    """Call `changed` whenever `measure` gives another value than before, or works again after it failed; never returns.

    Args:
        measure: asks a server, which may be away for a while.
        changed: has work that failed meanwhile go on.
        pause: seconds between looks.
    """
    before: object = None
    while True:
        try:
            now = measure()
            if before is not None and now != before:
                changed()
            before = now
        except Exception as error:
            if before is not _AWAY:
                logger.warning("it cannot be asked what is new: %s", reason_of(error))
            before = _AWAY
        time.sleep(pause)


class FolderWatch(FileSystemEventHandler):
    """Calls `changed` from a thread of its own soon after something below `folder` changed, and now and then.

    Args:
        folder: what is watched.
        changed: looks at it.
        is_own: whether a file is as this process itself left it, which is no news.
    """

    def __init__(
        self, folder: Path, changed: Callable[[], None], is_own: Callable[[Path], bool] = lambda path: False
    ) -> None:
        self._folder, self._changed, self._is_own = folder, changed, is_own
        self._event, self._paths = threading.Event(), set[Path]()
        threading.Thread(target=self._run, name="study-watch", daemon=True).start()
        try:
            observer = Observer()
            observer.daemon = True
            observer.schedule(self, str(folder), recursive=True)
            observer.start()
        except OSError as error:
            logger.warning("%s cannot be watched (%s); it is looked at every %d s", folder, error, LOOK_AGAIN)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Take note of a change; hidden files (temporary ones, locks) and records are none."""
        if event.event_type in ("created", "deleted", "moved", "closed") and not event.is_directory:
            for name in filter(None, (event.src_path, event.dest_path)):
                path = Path(str(name))
                below = path.relative_to(self._folder).parts if path.is_relative_to(self._folder) else (".",)
                if not any(part.startswith(".") for part in below) and path.suffix != ".json":
                    self._paths.add(path)
                    self._event.set()

    def _run(self) -> None:
        while True:
            noticed = self._event.wait(LOOK_AGAIN)
            self._event.clear()
            if self._event.wait(SETTLE):
                continue  # still changing
            paths, self._paths = self._paths, set()
            if noticed and paths and all(map(self._is_own, list(paths))):
                continue
            try:
                self._changed()
            except Exception:
                logger.exception("the study folder could not be read; it is tried again")
