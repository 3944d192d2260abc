"""What the newest training does or did: one JSON file beside the weights; the trainer writes it, the server reads."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lib.imaging.files import write_atomically

NAME = "training.json"
RUNNING, FAILED, STOPPED = "running", "failed", "stopped"


def read_record(folder: Path) -> dict[str, Any]:
    """The record; {} where there is none, or none that can be read."""
    try:
        content = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(folder: Path, **values: Any) -> None:
    """Replace the record, whole."""
    values = {"pid": os.getpid(), "updated": round(time.time(), 3), **values}
    write_atomically(folder / NAME, json.dumps(values, default=str).encode())


def update_record(folder: Path, **changes: Any) -> None:
    """Change some values of the record."""
    write_record(folder, **{**read_record(folder), **changes, "updated": round(time.time(), 3)})
