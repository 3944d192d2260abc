"""Stamps of files: values that change when a file is replaced or written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

Stamp = tuple[int, ...]


def stamp_of(path: Path) -> Stamp | None:
    """A file's or folder's stamp for as long as a process runs; None where there is none.

    Times alone are too coarse for two writes in a row, so the inode and the size are in it too.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def lasting_stamp(*paths: Path) -> str:
    """Text that a record can hold, of one or more files: the same after a restart, on a copy that keeps the times too.

    Raises:
        OSError: one is not there.
    """
    return "-".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in (path.stat() for path in paths))


def stamps_in(folder: Path) -> dict[str, Stamp]:
    """{name: stamp, as `stamp_of` has it} of what a folder holds; empty where it cannot be listed."""
    stamps: dict[str, Stamp] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # removed meanwhile, or a link to nothing
                stat = entry.stat()
                stamps[entry.name] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return stamps
