"""Is the server alive, and can it do its work: for whoever watches it, without a word about the studies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FULL = 64 * 2**20  # bytes of a disk below which labels may not be saved
Check = Callable[[], str]  # what is wrong; empty where nothing is


def health(checks: Mapping[str, Check]) -> tuple[bool, dict[str, Any]]:
    """Whether the server is ready, and what GET /oneprompt/health answers."""
    states = {}
    for name, check in checks.items():
        try:
            states[name] = check() or "ok"
        except Exception as error:  # what cannot be looked at is not in order
            states[name] = f"cannot be looked at ({type(error).__name__})"
    ready = all(word == "ok" for word in states.values())
    return ready, {"live": True, "ready": ready, "checks": states}


def writable(folder: Path) -> str:
    """What keeps labels from being saved in a folder."""
    if not folder.is_dir():
        return "the folder is not there: see that its drive is"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "the folder cannot be written: labels cannot be saved"
    free = shutil.disk_usage(folder).free
    return "" if free > FULL else f"the disk is full, {free // 2**20} MB are free: labels cannot be saved"
