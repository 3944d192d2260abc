"""Finished rows on disk, one line each, so that a killed run goes on where it stopped.

A line says which unit of work it finished: its key holds everything the answer depends on (weights, data, settings,
code), so that a line is used again exactly where it still is the answer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class FinishedRows:
    """Append-only JSON lines. Lines torn by a kill are passed over, lines of other keys are kept.

    Raises:
        OSError: the file cannot be read or written; what was written before stays.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path, self._records = path, {} if fresh else _read(path)

    def get(self, key: str) -> list[Record] | None:
        """The records of a finished unit."""
        return self._records.get(key)

    def put(self, key: str, records: Iterable[Record]) -> list[Record]:
        """Keep a unit's records; they are on the disk when this returns."""
        kept = list(records)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            line = json.dumps({"unit": key, "records": kept}).encode() + b"\n"
            file.write(line if _ends_whole(self.path) else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._records[key] = kept
        return kept

    def get_or(self, key: str, make: Callable[[], Iterable[Record]]) -> list[Record]:
        """The records of a unit, made and kept if it is not finished."""
        value = self.get(key)
        return value if value is not None else self.put(key, make())


def source_fingerprint(*folders: Path) -> str:
    """Changes when any Python file below the folders does: an answer of other code is another answer."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, list[Record]]:
    rows = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            unit = json.loads(line)
            rows[unit["unit"]] = unit["records"]
        except (ValueError, KeyError, TypeError):
            continue  # torn while it was written: the unit is done again
    return rows


def _ends_whole(path: Path) -> bool:
    if path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
