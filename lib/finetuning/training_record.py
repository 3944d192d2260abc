"""What the newest training does or did: one JSON file beside the weights; the trainer writes it, the server reads."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lib.imaging.files import KeptFile

NAME = "training.json"
RUNNING, FAILED, STOPPED = "running", "failed", "stopped"


def read_record(folder: Path) -> dict[str, Any]:
    """The record; {} where there is none, or none that can be read."""
    try:
        return _file(folder).read() or {}
    except OSError:
        return {}


def write_record(folder: Path, **values: Any) -> None:
    """Replace the record, whole."""
    values = {"pid": os.getpid(), "updated": round(time.time(), 3), **values}
    _file(folder).write(values)


def update_record(folder: Path, **changes: Any) -> None:
    """Change some values of the record."""
    write_record(folder, **{**read_record(folder), **changes, "updated": round(time.time(), 3)})


def _file(folder: Path) -> KeptFile[dict[str, Any]]:
    return KeptFile(
        folder / NAME,
        lambda path: dict(json.loads(path.read_text())),
        lambda values: json.dumps(values, default=str).encode(),
    )
