"""Files that exist whole or not at all."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
Write = Callable[[Path, bytes], None]  # replaces a file whole or not at all, or raises OSError

A_DAY = 86_400.0  # seconds
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{32}\.tmp")


def write_atomically(path: str | Path, data: bytes, within: int | None = None) -> None:
    """Replace `path` by `data`: whoever reads it meanwhile, or after a crash, sees the old bytes or the new ones.

    The temporary file lies beside the target (a rename is atomic only within one file system), and its name ends in
    `.tmp` so that a study list watched by its suffixes never takes it for a label. It tells whose it is, so that a
    later start can sweep away what a killed process left (`sweep`), and is short, so that any name has room for it.

    Args:
        path: the file; folders that are missing on the way to it are made.
        data: what it holds then.
        within: descriptor of the open folder that `path` is relative to, whatever is at that folder's place by now.

    Raises:
        OSError: the file is as it was.
    """
    path = Path(path)
    _make_folder(path.parent, within)
    temporary = path.with_name(f".{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=0o666, dir_fd=within)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path, src_dir_fd=within, dst_dir_fd=within)
        _flush_names(path.parent, within)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=within)


def _make_folder(folder: Path, within: int | None) -> None:
    if within is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    for part in (*reversed(folder.parents), folder):
        if not _is_folder(part, within):
            with suppress(FileExistsError):  # another process was first
                os.mkdir(part, dir_fd=within)


def _is_folder(path: Path, within: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=within).st_mode)
    except FileNotFoundError:
        return False


def _flush_names(folder: Path, within: int | None) -> None:
    """A new name is on the disk when its folder is. Some network file systems refuse that, and keep names at once."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY, dir_fd=within)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_prefix() -> str:
    """How names of this process's files in the system's temporary folder begin, so that a later start knows them."""
    return f"oneprompt-{os.getpid()}-"


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A private folder that is gone at the end of its context, or, after a kill, at the next start."""
    return tempfile.TemporaryDirectory(prefix=temporary_prefix())


def set_aside(path: Path, reason: object) -> None:
    """Rename a file that cannot be read, so that a person can look at it and another can take its place."""
    aside = path.with_name(f"{path.name}.broken")
    logger.error("%s cannot be read, it is kept as %s and made anew: %s", path, aside.name, reason)
    with suppress(FileNotFoundError):  # another process was first
        path.replace(aside)


class KeptFile(Generic[Value]):
    """A value that one file keeps: written whole or not at all, and set aside where it cannot be read.

    Args:
        path: the file; it need not be there.
        load: reads a value; whatever it raises but OSError says that the file is broken.
        dump: a value's bytes.
        write: replaces the file.
    """

    def __init__(
        self, path: Path, load: Callable[[Path], Value], dump: Callable[[Value], bytes], write: Write = write_atomically
    ) -> None:
        self.path, self._load, self._dump, self._write = path, load, dump, write

    def read(self) -> Value | None:
        """The value; None where there is none (any more). Raises OSError where the disk does not give it."""
        try:
            return self._load(self.path)
        except FileNotFoundError:
            return None
        except OSError:
            raise
        except Exception as error:  # a file can be broken in as many ways as it has bytes
            set_aside(self.path, error)
            return None

    def write(self, value: Value) -> None:
        """Replace the value. Raises OSError."""
        self._write(self.path, self._dump(value))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `array_bytes`; nothing in it is unpickled."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as entries:
        return dict(entries)


def array_bytes(arrays: Mapping[str, np.ndarray], compress: bool = False) -> bytes:
    """Arrays by name as a NumPy archive."""
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def sweep(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporary files of ended processes of this machine that lie in these folders; returns them.

    Files of other machines, which may share the folder, go when they are a day old.
    """
    swept = []
    for folder in folders:
        for path in sorted(folder.glob(".*.tmp")) if folder.is_dir() else []:
            match = _TEMPORARY.fullmatch(path.name)
            if match and _is_left(path, match[1], int(match[2])):
                with suppress(OSError):
                    path.unlink()
                    swept.append(path)
    return swept


def is_alive(process: int) -> bool:
    """Whether a process of this machine, other than this one, runs: at a start nothing is this one's own yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return process != os.getpid()


def _is_left(path: Path, machine: str, process: int) -> bool:
    if machine == _machine():
        return not is_alive(process)
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > A_DAY
    return False


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
