"""Whether a study folder is there, and where what the app remembers of it is kept.

A drive that is unplugged, or a network share that goes, leaves an empty folder or none. Taken for the study list, all
studies would seem removed, and what is written would lie where the share hides it when it comes back.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from infers.disks import CLOSED, check_writable
from lib.imaging.files import write_atomically

logger = logging.getLogger(__name__)

STATE_FOLDER = ".oneprompt"
MARK = "list-id"


def private_state(address: str) -> Path:
    """A folder of this user for what is remembered of a study list that cannot hold it itself."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "oneprompt" / hashlib.sha256(address.encode()).hexdigest()[:16]


class Presence:
    """A study folder and its state.

    Which folder it is is settled at the start: its mark is read from then on and never written anew, so that no other
    folder becomes this one. What is looked at and written lies in the folder that was opened and found to be the one,
    wherever its path leads by then.

    Args:
        root: the study folder, which is made where it is missing.

    Attributes:
        state: folder for what the app remembers: in the study folder, or, where that cannot be written, of this user.

    Raises:
        OSError: neither can be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.state = root / STATE_FOLDER
        try:
            self._mark = _made_state(self.state)
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            self.state = private_state(str(root.resolve()))
            self._mark = _made_state(self.state)
        self._keeps_state = self.state.parent == root
        self._identity = _identity(root.stat())

    def check(self) -> None:
        """Raises FileNotFoundError while the folder is away; one that came back is taken again."""
        with self._opened() as folder:
            if self._keeps_state:
                self._tidy(folder)
            else:
                self.state.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file below the study folder or the state's, as `write_atomically`. Raises OSError."""
        if not path.is_relative_to(self.root):
            write_atomically(path, data)
            return
        with self._opened() as folder:
            try:
                write_atomically(path.relative_to(self.root), data, folder)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Descriptor of the folder, held for a moment only: a file system with an open folder cannot be unmounted."""
        try:
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            reason = f"it is not there any more: {error.strerror}"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.root / STATE_FOLDER)) from error
        try:
            if (identity := _identity(os.fstat(folder))) != self._identity:
                if not self._is_marked(folder):
                    reason = "another folder is in its place"
                    raise FileNotFoundError(errno.ENOENT, reason, str(self.root / STATE_FOLDER))
                logger.info("%s is back", self.root)
                self._identity = identity
            yield folder
        finally:
            os.close(folder)

    def _is_marked(self, folder: int) -> bool:
        try:
            return (
                _read(f"{STATE_FOLDER}/{MARK}", folder) == self._mark if self._keeps_state else bool(os.listdir(folder))
            )
        except OSError:
            return False

    def _tidy(self, folder: int) -> None:
        """Where somebody tidied up, what is remembered begins anew, in the same folder under the same mark."""
        try:
            os.stat(STATE_FOLDER, dir_fd=folder)
        except FileNotFoundError:
            write_atomically(Path(STATE_FOLDER) / MARK, self._mark.encode(), folder)


def _made_state(state: Path) -> str:
    """The mark in a state folder; both are made where they are missing."""
    state.mkdir(parents=True, exist_ok=True)
    check_writable(state)
    mark = state / MARK
    if not mark.exists():
        write_atomically(mark, uuid.uuid4().hex.encode())
    return mark.read_text()


def _read(path: str, folder: int) -> str:
    with open(path, opener=partial(os.open, dir_fd=folder)) as file:
        return file.read()


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return (stat.st_dev, stat.st_ino)
