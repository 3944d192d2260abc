"""Versions of a model's weights on disk, whatever its network, the last ones within a disk budget.

Each is a whole file with its record inside: `HASH.safetensors`, named by its weights' hash. Its record is its
provenance: parent, data, what it was examined on and what came out, when, and whether it was published. Publishing
copies a version over the one file that the server watches, in one rename; taking it away means the configured weights,
or none where a model has none of its own.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lib.imaging.files import set_aside, write_atomically
from lib.networks.checkpoints import CheckpointError, load_network, read_provenance, save_network, weights_hash

logger = logging.getLogger(__name__)

FOLDER = "versions"
PUBLISHED, CANDIDATE, UPLOADED = "published", "candidate", "uploaded"


class VersionError(LookupError):
    """A version that does not exist (any more)."""


class Versions:
    """The versions in one folder.

    Args:
        folder: made where it is missing.
        published: the file that is served while it exists.
        most: versions to keep, whatever their size.
        room: bytes to keep within. The published version and the newest one stay in any case.
    """

    def __init__(self, folder: Path, published: Path, most: int = 10, room: int = 2**30) -> None:
        self.folder, self.published, self._most, self._room = folder, published, most, room

    def add(self, network: nn.Module, record: Mapping[str, Any]) -> str:
        """Keep a network with its record (JSON-able, with a `state`); returns its hash. Older versions may go.

        A candidate with the very weights of a version that is there already leaves that one's record as it is.

        Raises:
            OSError: the disk is full; nothing is left behind.
        """
        name = weights_hash(network)
        if record.get("state") == CANDIDATE and self._file(name).exists():
            return name
        newest = max(map(_created, self.all()), default=0.0)
        created = max(round(time.time(), 3), newest + 0.001)  # the newest also where the clock was set back
        save_network(self._file(name), network, {"created": created, **record})
        self._prune(name)
        return name

    def all(self) -> list[dict[str, Any]]:
        """Every version's record with its `hash` and `bytes`, newest first; files that cannot be read are left out."""
        records = []
        for path in self.folder.glob("*.safetensors"):
            try:
                records.append({**read_provenance(path), "hash": path.stem, "bytes": path.stat().st_size})
            except (CheckpointError, OSError, ValueError) as error:
                logger.warning("%s is no readable version: %s", path, error)
        return sorted(records, key=_created, reverse=True)

    def path(self, name: str) -> Path:
        """The file of a version. Raises VersionError."""
        path = self._file(name) if re.fullmatch(r"[0-9a-f]{12}", name) else None
        if path is None or not path.is_file():
            there = ", ".join(record["hash"] for record in self.all()) or "none"
            raise VersionError(
                f"the versions are {there}, got {name[:40]!r}: it was removed to save room, or never was"
            )
        return path

    def unlearnt(self, name: str, studies: Collection[str]) -> Path | None:
        """The newest of a version and its parents that surely learnt from none of some studies.

        None where that is the configured weights at most: every version did, was uploaded, or a parent is gone.
        """
        newest = None
        for record in reversed(self._line(name)):
            if record.get("state") == UPLOADED or {*record.get("learnt", record["studies"])} & {*studies}:
                break
            newest = self._file(record["hash"])
        return newest

    def learnt(self, name: str) -> frozenset[str] | None:
        """Ids of all studies that a version or a parent of its learnt from; None where that is not known: one was
        uploaded, or is gone."""
        line = self._line(name)
        if not line or any(record.get("state") == UPLOADED for record in line):
            return None
        return frozenset(study for record in line for study in record.get("learnt", record["studies"]))

    def publish(self, name: str) -> None:
        """Make a version the published one. Raises VersionError, CheckpointError (a damaged file), OSError."""
        path = self.path(name)
        if weights_hash(load_network(path, "cpu", nn.Module)) != name:
            raise CheckpointError(
                f"{path} does not hold the weights that its name says: it was changed, and is not served"
            )
        write_atomically(self.published, path.read_bytes())

    def withdraw(self) -> None:
        """Take the published weights away, which are kept as a version; the configured ones, or none, serve then."""
        if self.published.exists():
            self.adopt(self.published)

    def adopt(self, path: Path) -> None:
        """Make a file from outside a version, also one of an older release; one that cannot be read is set aside."""
        try:
            network = load_network(path, "cpu", nn.Module)
            if not self._file(weights_hash(network)).exists():
                self.add(network, {"state": UPLOADED, **read_provenance(path)})
        except CheckpointError as error:
            set_aside(path, error)
            return
        path.unlink()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _line(self, name: str) -> list[dict[str, Any]]:
        """The records of a version and its parents, the version first; none where one is gone."""
        kept, line = {record["hash"]: record for record in self.all()}, []
        while name in kept:  # each once: an upload of older weights has its own child as its parent
            line.append(kept.pop(name))
            name = str(line[-1].get("parent"))
        return line if line and line[-1].get("base") == name else []

    def _prune(self, newest: str) -> None:
        served = weights_hash(load_network(self.published, "cpu", nn.Module)) if self.published.exists() else None
        kept = self.all()
        old = [record for record in kept if record["hash"] not in (served, newest)]
        old.sort(key=lambda record: (record.get("state") != CANDIDATE, _created(record)))
        size, count = sum(record["bytes"] for record in kept), len(kept)
        for record in old:
            if count <= self._most and size <= self._room:
                break
            self._file(record["hash"]).unlink(missing_ok=True)
            size, count = size - record["bytes"], count - 1


def _created(record: Mapping[str, Any]) -> float:
    """When a version was made, in seconds since the epoch; 0 where its record does not say."""
    created = record.get("created")
    return float(created) if isinstance(created, int | float) else 0.0
