"""The manifest of a run: a Parquet data set of parts that grows, readable at every moment.

One process writes it. Each part holds the rows of whole studies and is written whole or not at all; many small parts
are joined into one, and at no moment does a reader of the folder see a row twice: the joined part is written under a
name that readers of Parquet data sets pass over, the small parts are removed, and then it gets its name. A start after
a crash in between goes on with that.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.archive.rows import COLUMNS, Row
from scripts.archive.storage import Storage

FOLDER = "manifest"
SMALL, JOINED, HIDDEN = "part-", "rows-", "_joined-"  # how names of parts begin
JOIN_AT = 64  # small parts
REPLACES = b"replaces"  # key of a joined part's metadata
SUFFIX = ".parquet"

_TEXTS, _NUMBERS = pa.list_(pa.string()), {"value": pa.int32(), "voxels": pa.int64(), "size": pa.int64()}
SCHEMA = pa.schema(
    [
        pa.field(
            name,
            _TEXTS
            if name in ("alarms", "templates")
            else _NUMBERS.get(name) or (pa.string() if Row.__dataclass_fields__[name].type == "str" else pa.float64()),
        )
        for name in COLUMNS
    ]
)


class Manifest:
    """The manifest below a run's folder.

    Args:
        storage: the run's folder.

    Raises:
        Away: the folder cannot be reached.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._finish_joins()

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of whole studies. Raises Away where the folder is full or cannot be reached; nothing is written
        then."""
        if rows:
            self._write(f"{SMALL}{uuid.uuid4().hex}", [row.to_dict() for row in rows])

    def join_parts(self, at_least: int = JOIN_AT) -> None:
        """Join the small parts where there are so many. Raises Away."""
        small = [name for name in self._parts() if name.startswith(SMALL)]
        if len(small) < max(at_least, 2):
            return
        table = pa.concat_tables([self._read(name) for name in small])
        hidden = f"{HIDDEN}{uuid.uuid4().hex}"
        self._write(hidden, table, {REPLACES: "\n".join(small).encode()})
        self._finish(hidden + SUFFIX, small)

    def tables(self, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
        """The rows, part by part."""
        for name in self._parts():
            yield self._read(name, columns)

    def rows(self) -> list[dict[str, Any]]:
        """Every row as {column: value}; for small runs and tests."""
        return [row for table in self.tables() for row in table.to_pylist()]

    def studies(self) -> np.ndarray:
        """uint64 hashes of the ids (`study_hash`) of the studies that have rows, sorted; 8 bytes a study."""
        hashes = [np.zeros(0, np.uint64)]
        for table in self.tables(("study",)):
            studies = set(table["study"].to_pylist())
            hashes.append(np.fromiter(map(study_hash, studies), np.uint64, len(studies)))
        return np.unique(np.concatenate(hashes))

    def drop(self, states: Collection[str]) -> int:
        """Take the rows of some states away, so that their studies are tried again; returns how many."""
        dropped = 0
        for name in self._parts():
            table = self._read(name)
            rest = table.filter(pa.array([state not in states for state in table["state"].to_pylist()], pa.bool_()))
            if rest.num_rows < table.num_rows:
                dropped += table.num_rows - rest.num_rows
                self._write(name.removesuffix(SUFFIX), rest)  # over the old part
        return dropped

    def _parts(self) -> list[str]:
        names = self._storage.names(FOLDER)
        return [name for name in names if name.endswith(SUFFIX) and name.startswith((SMALL, JOINED))]

    def _read(self, name: str, columns: Collection[str] | None = None) -> pa.Table:
        data = self._storage.read(f"{FOLDER}/{name}") or b""
        return pq.read_table(io.BytesIO(data), columns=list(columns) if columns else None)

    def _write(
        self, stem: str, content: pa.Table | list[dict[str, Any]], metadata: Mapping[bytes, bytes] | None = None
    ) -> None:
        table = content if isinstance(content, pa.Table) else pa.Table.from_pylist(content, SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(dict(metadata or {})), buffer, compression="zstd")
        self._storage.write(f"{FOLDER}/{stem}{SUFFIX}", buffer.getvalue())

    def _finish_joins(self) -> None:
        """What a process that ended between two steps of a join left."""
        for name in self._storage.names(FOLDER):
            if name.startswith(HIDDEN) and name.endswith(SUFFIX):
                data = self._storage.read(f"{FOLDER}/{name}") or b""
                metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
                self._finish(name, metadata.get(REPLACES, b"").decode().split("\n"))

    def _finish(self, hidden: str, replaced: Sequence[str]) -> None:
        for name in replaced:
            self._storage.remove(f"{FOLDER}/{name}")
        self._storage.rename(f"{FOLDER}/{hidden}", f"{FOLDER}/{JOINED}{hidden.removeprefix(HIDDEN)}")


def study_hash(study: str) -> int:
    """64 bits of a study's id."""
    return int.from_bytes(hashlib.blake2b(study.encode(), digest_size=8).digest(), "little")


def is_among(study: str, hashes: np.ndarray) -> bool:
    """Whether a study's hash is among sorted ones."""
    own = np.uint64(study_hash(study))
    place = int(np.searchsorted(hashes, own))
    return place < len(hashes) and bool(hashes[place] == own)
