"""Files that exist whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

A_DAY = 86_400.0  # seconds
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{32}\.tmp")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data`: whoever reads it meanwhile, or after a crash, sees the old bytes or the new ones.

    The temporary file lies beside the target (a rename is atomic only within one file system), and its name ends in
    `.tmp` so that a study list watched by its suffixes never takes it for a label. It tells whose it is, so that a
    later start can sweep away what a killed process left (`sweep`), and is short, so that any name has room for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_prefix() -> str:
    """How names of this process's files in the system's temporary folder begin, so that a later start knows them."""
    return f"oneprompt-{os.getpid()}-"


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A private folder that is gone at the end of its context, or, after a kill, at the next start."""
    return tempfile.TemporaryDirectory(prefix=temporary_prefix())


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


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Changes when a file is replaced or written; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)
