"""Names and numbers of structures: which value of a saved label means which structure, and one stable index a name.

A saved label's values mean what its own `label_info` says, never what another study's values meant. Indices in the
app's answers come from one map that only ever grows, so a client that remembers an index stays right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from infers.errors import ClientError
from infers.records import RecordError, read_record, write_record

logger = logging.getLogger(__name__)

LARGEST_INDEX = 254  # OHIF takes masks as bytes and keeps 255 for "leave this voxel as it is"
NO_STRUCTURES = frozenset({"background", "foreground_scribbles", "background_scribbles"})


def names_by_value(values: Iterable[int], params: Mapping[str, Any], configured: Sequence[str]) -> dict[int, str]:
    """What each value of one label map means.

    Args:
        values: the values other than 0 in the label map.
        params: what came with it; `label_info` is a list of {"name", "idx"} (Slicer's submit) or {"name", "id"}
            (Slicer's scribbles), `label_names` a {name: value} (this app's own masks).
        configured: names of `--conf labels` in order, for values that nothing names.

    Raises:
        ClientError: `label_info` that cannot name every value, or twice the same name.
    """
    values = sorted({int(value) for value in values})
    entries = _entries(params)
    if not entries:
        return {v: configured[v - 1] if 0 < v <= len(configured) else f"label_{v}" for v in values}
    if len({name for name, _ in entries}) < len(entries):
        raise ClientError(f"label_info must name each structure once, got {[name for name, _ in entries]}")
    by_index = {index: name for name, index in entries if index is not None}
    by_order = dict(enumerate((name for name, _ in entries), start=1))
    # Slicer's submit numbers its segments before it drops the background and scribble ones, and the map after it.
    renumbered = "client_id" in params and set(by_index) != set(by_order)
    first, second = (by_order, by_index) if renumbered else (by_index, by_order)
    for naming in (first, second):
        if all(value in naming for value in values):
            return {value: naming[value] for value in values}
    raise ClientError(
        f"label_info must name every value of the label: it holds {values}, label_info names "
        f"{dict(sorted(by_index.items())) or list(by_order.values())}; send one {{'name', 'idx'}} for each structure"
    )


def _entries(params: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    info, names = params.get("label_info"), params.get("label_names")
    if not info and isinstance(names, Mapping):
        info = [{"name": name, "idx": index} for name, index in names.items()]
    if not info:
        return []
    if not isinstance(info, list) or not all(isinstance(entry, Mapping) and entry.get("name") for entry in info):
        raise ClientError(f"label_info must be a list of {{'name', 'idx'}}, got {info!r}")
    entries = []
    for entry in info:
        index = entry.get("idx", entry.get("id"))
        if not isinstance(index, int | None):
            raise ClientError(f"each idx of label_info must be a whole number, got {index!r}")
        entries.append((str(entry["name"]).strip(), index))
    return entries


class LabelMap:
    """The structures of one study list and their indices, kept in one small file.

    With `configured` names only those exist; without, every name that a saved label brings is learnt.
    """

    def __init__(self, path: Path, configured: Sequence[str] = ()) -> None:
        self.path = path
        self.configured = tuple(configured)
        self._lock = Lock()
        self._read_stamp: tuple[int, int] | None = None
        self._all: dict[str, int] = {}
        if configured:
            self._add(configured)

    @property
    def names(self) -> dict[str, int]:
        """{structure: index} in the order of the indices."""
        with self._lock:
            self._read()
            known = {name: self._all[name] for name in self.configured} if self.configured else self._all
            return dict(sorted(known.items(), key=lambda item: item[1]))

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that cannot be structures here.

        Raises:
            ClientError: a name outside the configured ones, or one that stands for no structure.
        """
        for name in names:
            if self.configured and name not in self.configured:
                raise ClientError(
                    f"label {name!r} is unknown: allowed are {', '.join(self.configured)} (--conf labels of this "
                    "server); rename the structure or start the server with that label too"
                )
            if name.lower() in NO_STRUCTURES:
                raise ClientError(f"{name!r} is no structure: leave those voxels 0 and name only structures")

    def learn(self, names: Iterable[str]) -> dict[str, int]:
        """Give every name an index, remember it, and return {name: index} of these names.

        Raises:
            ClientError: as `check`, or too many structures.
        """
        names = list(names)
        self.check(names)
        if any(name not in self.names for name in names):
            self._add(names)
        known = self.names
        return {name: known[name] for name in names}

    def with_new(self, names: Iterable[str]) -> dict[str, int]:
        """{name: index} of these names; a new name gets the index it would be given, but it is not remembered."""
        names = list(names)
        self.check(names)
        known = self.names
        for name in names:
            known.setdefault(name, max([0, *self._all.values(), *known.values()]) + 1)
        return {name: known[name] for name in names}

    def restore(self, indices: Mapping[str, int], names: Iterable[str]) -> None:
        """Make the map agree with what the saved labels say, where its file was lost.

        Args:
            indices: {structure: index} of masks that were made with the map.
            names: structures of people's labels.
        """
        if self.configured:
            return
        known = self.names
        taken = set(known.values())
        lost = {name: index for name, index in indices.items() if name not in known and index not in taken}
        if any(name not in known for name in [*lost, *names]):
            self._add(names, lost)

    def _add(self, names: Iterable[str], lost: Mapping[str, int] | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, FileLock(f"{self.path}.lock"):
            self._read()
            grown = {**(lost or {}), **self._all}
            for name in names:
                grown.setdefault(name, next(index for index in count(1) if index not in grown.values()))
            if max(grown.values(), default=0) > LARGEST_INDEX:
                raise ClientError(f"a study list has at most {LARGEST_INDEX} structures, {len(grown)} are named")
            write_record(self.path, grown)
            self._read()

    def _read(self) -> None:
        try:
            stat = self.path.stat()
            if self._read_stamp != (stat.st_mtime_ns, stat.st_ino):
                self._all = _indices(read_record(self.path))
                self._read_stamp = (stat.st_mtime_ns, stat.st_ino)
        except FileNotFoundError:
            self._all, self._read_stamp = {}, None
        except RecordError as error:
            # Saved labels say their own names, so the map grows again; of an index nothing stored depends on it
            aside = self.path.with_name(f"{self.path.name}.broken")
            logger.error("%s is broken, it is kept as %s and made anew: %s", self.path, aside.name, error)
            self.path.replace(aside)
            self._all, self._read_stamp = dict(self._all), None


def _indices(found: Any) -> dict[str, int]:
    """{structure: index} as the map's file holds it. Raises RecordError."""
    if not isinstance(found, dict) or not all(
        isinstance(index, int) and 0 < index <= LARGEST_INDEX for index in found.values()
    ):
        raise RecordError(f"structures must have indices from 1 to {LARGEST_INDEX}")
    return dict(found)
