"""One small JSON file beside each label: what was said about it, and of which bytes it was said.

MONAI Label keeps this in one file for the whole study list, where two processes can overwrite each other's news. A
sidecar is written before its label and keeps the former record too, so at every moment, a crash in between included,
the record that belongs to the label's bytes can be found by their checksum.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infers.records import RecordError, read_record, record_bytes
from lib.imaging.stamps import Stamp, stamp_of

logger = logging.getLogger(__name__)

_checksums: dict[Path, tuple[Stamp | None, str]] = {}


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes; remembered until the file changes. Raises OSError where there is none."""
    stamp = stamp_of(path)
    known = _checksums.get(path)
    if known is None or known[0] != stamp:
        known = _checksums[path] = (stamp, hashlib.sha256(path.read_bytes()).hexdigest())
    return known[1]


def write_sidecar(path: Path, label: bytes, info: dict[str, Any], write: Callable[[Path, bytes], None]) -> None:
    """Record `info`, by `write`, about the label bytes that will be written next."""
    entry = {"sha256": hashlib.sha256(label).hexdigest(), "info": info}
    former = [old for old in _records(path) if old["sha256"] != entry["sha256"]]
    records = [entry, *former[:1]]
    write(path, record_bytes({"records": records}))


def _warn(path: Path, reason: str) -> None:
    logger.warning("%s: %s", path, reason)


def read_sidecar(path: Path, label: Path, broken: Callable[[Path, str], None] = _warn) -> dict[str, Any] | None:
    """What is recorded about the label file as it is now.

    None where nothing is, or nothing that can be read: then `broken` is called with the path and the reason. Of a
    label that somebody replaced by hand the names of its structures are still believed, because an edited label keeps
    them; who or what made it is not.
    """
    records = _records(path, broken)
    if not records:
        return None
    digest = checksum(label)
    for record in records:
        if record["sha256"] == digest:
            return dict(record["info"])
    names = ("label_info", "client_id", "label_names")
    return {key: value for key, value in records[0]["info"].items() if key in names}


def _records(path: Path, broken: Callable[[Path, str], None] = _warn) -> list[dict[str, Any]]:
    try:
        records = read_record(path)["records"]
        return [one for one in records if isinstance(one["info"], dict) and isinstance(one["sha256"], str)]
    except FileNotFoundError:
        return []
    except (OSError, RecordError, KeyError, TypeError) as error:
        broken(path, f"it is no readable record and is ignored ({error})")
        return []
