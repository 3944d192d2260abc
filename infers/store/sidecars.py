"""One small JSON file beside each label: what was said about it, and of which bytes it was said.

MONAI Label keeps this in one file for the whole study list, where two processes can overwrite each other's news. A
sidecar is written before its label and keeps the former record too, so at every moment, a crash in between included,
the record that belongs to the label's bytes can be found by their checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from lib.imaging.files import write_atomically

logger = logging.getLogger(__name__)

_checksums: dict[Path, tuple[tuple[int, int, int], str]] = {}


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes; remembered until the file changes. Raises OSError where there is none."""
    stat = path.stat()
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    known = _checksums.get(path)
    if known is None or known[0] != stamp:
        known = _checksums[path] = (stamp, hashlib.sha256(path.read_bytes()).hexdigest())
    return known[1]


def write_sidecar(path: Path, label: bytes, info: dict[str, Any]) -> None:
    """Record `info` about the label bytes that will be written next."""
    entry = {"sha256": hashlib.sha256(label).hexdigest(), "info": info}
    former = [old for old in _records(path) if old["sha256"] != entry["sha256"]]
    records = [entry, *former[:1]]
    write_atomically(path, json.dumps({"records": records}, indent=1, default=str).encode())


def update_sidecar(path: Path, label: Path, info: dict[str, Any]) -> None:
    """Add to what is recorded about a label that exists."""
    write_sidecar(path, label.read_bytes(), {**(read_sidecar(path, label) or {}), **info})


def read_sidecar(path: Path, label: Path) -> dict[str, Any] | None:
    """What is recorded about the label file as it is now.

    None where nothing is. Of a label that somebody replaced by hand the names of its structures are still believed,
    because an edited label keeps them; who or what made it is not.
    """
    records = _records(path)
    if not records:
        return None
    digest = checksum(label)
    for record in records:
        if record["sha256"] == digest:
            return dict(record["info"])
    names = ("label_info", "client_id", "label_names")
    return {key: value for key, value in records[0]["info"].items() if key in names}


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text())["records"]
        return [record for record in records if isinstance(record["info"], dict) and record["sha256"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not a readable record and is ignored: %s", path, error)
        return []
