"""Files that exist whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data`: whoever reads it meanwhile, or after a crash, sees the old bytes or the new ones.

    The temporary file lies beside the target (a rename is atomic only within one file system), and its name ends in
    `.tmp` so that a study list watched by its suffixes never takes it for a label.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Changes when a file is replaced or written; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)
