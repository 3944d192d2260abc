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
from pathlib import Path

from infers.disks import CLOSED, check_writable

logger = logging.getLogger(__name__)

STATE_FOLDER = ".oneprompt"
MARK = "list-id"


def private_state(address: str) -> Path:
    """A folder of this user for what is remembered of a study list that cannot hold it itself."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "oneprompt" / hashlib.sha256(address.encode()).hexdigest()[:16]


class Presence:
    """A study folder and its state.

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
            self._make_state()
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            self.state = private_state(str(root.resolve()))
            self._make_state()
        self._identity = _identity(root)

    def check(self) -> None:
        """Raises FileNotFoundError while the folder is away; one that came back is taken again."""
        if (identity := _identity(self.root)) is None:
            raise FileNotFoundError(errno.ENOENT, "it is not there any more", str(self.root / STATE_FOLDER))
        if identity == self._identity:
            if not self.state.is_dir():
                self._make_state()  # somebody tidied up
            return
        if not self._is_marked():
            raise FileNotFoundError(errno.ENOENT, "another folder is in its place", str(self.root / STATE_FOLDER))
        logger.info("%s is back", self.root)
        self._identity = identity

    def _make_state(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        check_writable(self.state)
        mark = self.state / MARK
        if not mark.exists():
            mark.write_text(uuid.uuid4().hex)
        self._mark = mark.read_text()

    def _is_marked(self) -> bool:
        try:
            there = self.root / STATE_FOLDER / MARK
            return there.read_text() == self._mark if self.state.parent == self.root else any(self.root.iterdir())
        except OSError:
            return False


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino)
