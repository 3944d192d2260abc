"""Temporary files, each named after its process (`lib.imaging.files`): a start sweeps away what a kill left."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from lib.imaging.files import is_alive

_OURS = re.compile(r"oneprompt-([0-9]+)-.*")


def sweep_temporary() -> list[str]:
    """Remove the temporary files and folders of ended processes, of this user; returns their names."""
    swept = []
    for path in Path(tempfile.gettempdir()).glob("oneprompt-*"):
        match = _OURS.fullmatch(path.name)
        with suppress(OSError):
            if match and path.lstat().st_uid == os.getuid() and not is_alive(int(match[1])):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                swept.append(path.name)
    return swept
