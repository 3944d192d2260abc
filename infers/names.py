"""Names and numbers of structures: which value of a saved label means which structure, and one stable index a name.

A saved label's values mean what the nearest source says (`choose_names`): what came with it, what its file says, what
is recorded about it, and only then the study list. Values that fit nothing known are asked about, for a structure of a
made-up name would fight with the known ones. Indices in the app's answers come from one map that only ever grows, so a
client that remembers an index stays right. Names that differ in capitals or blanks alone are one structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from filelock import FileLock
from pydantic import Field, StrictInt

from infers.errors import ClientError
from infers.guards import checked
from infers.records import RecordError, read_record, record_bytes
from lib.imaging.files import KeptFile, Write, write_atomically
from lib.imaging.stamps import Stamp, stamp_of
from lib.parsing import Part, shown

LARGEST_INDEX = 254  # OHIF takes masks as bytes and keeps 255 for "leave this voxel as it is"
GENERIC = re.compile(r"label_\d+")  # the name of a structure that nobody named
Number = Annotated[StrictInt | None, Field(description="a whole number in label_info")]
NO_STRUCTURES = frozenset({"background", "foreground_scribbles", "background_scribbles"})


class LabelEntry(Part):
    """One structure of `label_info`: 3D Slicer's submit numbers it by `idx`, its scribbles by `id`."""

    name: Annotated[
        str, Field(min_length=1, coerce_numbers_to_str=True, description="the name of a structure in label_info")
    ]
    idx: Number = None
    id: Number = None

    @property
    def index(self) -> int | None:
        """The structure's value in the label."""
        return self.idx if "idx" in self.model_fields_set else self.id


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
    renumbered = "client_id" in params and bool(params.get("label_info")) and set(by_index) != set(by_order)
    first, second = (by_order, by_index) if renumbered else (by_index, by_order)
    for naming in (first, second):
        if all(value in naming for value in values):
            return {value: naming[value] for value in values}
    raise ClientError(
        f"label_info must name every value of the label: it holds {values}, label_info names "
        f"{dict(sorted(by_index.items())) or list(by_order.values())}; send one {{'name', 'idx'}} for each structure"
    )


def choose_names(
    values: Iterable[int],
    params: Mapping[str, Any],
    sources: Iterable[Mapping[int, str]],
    labels: LabelMap,
) -> dict[int, str]:
    """What each value of one label map means, by the nearest source that names all of them.

    Args:
        values: the values other than 0 in the label map.
        params: what came with it, as for `names_by_value`; where it names structures, it decides.
        sources: {value: structure} by the label's own file and by records about it, the nearest first.
        labels: the study list's structures.

    Returns:
        {value: structure}, structures spelled as the list knows them.

    Raises:
        ClientError: as `names_by_value`; two values of one structure; or 409 with the choices, where nothing names the
            values and the list knows other structures by name.
    """
    values = sorted({int(value) for value in values})
    if _entries(params) or labels.configured:
        naming = None if _entries(params) else _first_that_fits(values, sources)
        naming = naming or names_by_value(values, params, labels.configured)
    else:
        by_index = {index: name for name, index in labels.names.items()}
        known = _first_that_fits(values, [*sources, by_index])
        if known is None and (own_names := [name for name in labels.names if not GENERIC.fullmatch(name)]):
            raise ClientError(
                f"nothing says what the label's values {values} are, and the study list knows "
                f"{ {name: index for name, index in labels.names.items() if name in own_names} }: send label_info "
                '[{"name": ..., "idx": value}, ...] with the label, or for a file that lies there already with '
                "PUT /datastore/label/info",
                409,
            )
        naming = known or {value: by_index.get(value, f"label_{value}") for value in values}
    naming = {value: labels.spelled(name) for value, name in naming.items()}
    if len(set(naming.values())) < len(naming):
        raise ClientError(f"each structure must have one value, got {naming}: names differ in more than capitals")
    return naming


def names_beside(label: Path) -> dict[int, str]:
    """{value: structure} of the record beside a label, NAME.json beside NAME.nii.gz, as `scripts.predict` writes it.

    Its `labels` are {structure: value} or {value: structure}; whatever else such a file holds says nothing.
    """
    record = label.with_name(label.name.split(".nii")[0].split(".nrrd")[0] + ".json")
    try:
        content = read_record(record)
    except (OSError, RecordError):
        return {}
    labels = content.get("labels") if isinstance(content, Mapping) else None
    pairs = labels.items() if isinstance(labels, Mapping) else ()
    turned = (pair if isinstance(pair[1], int) else pair[::-1] for pair in pairs)
    return {int(value): str(name) for name, value in turned if str(value).isdigit() and int(value) > 0}


def _first_that_fits(values: Sequence[int], sources: Iterable[Mapping[int, str]]) -> dict[int, str] | None:
    for source in sources:
        if all(source.get(value) for value in values):
            return {value: source[value] for value in values}
    return None


def _entries(params: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    info, names = params.get("label_info"), params.get("label_names")
    if not info and isinstance(names, Mapping):
        info = [{"name": name, "idx": index} for name, index in names.items()]
    if not info:
        return []
    if not isinstance(info, list) or not all(isinstance(entry, Mapping) for entry in info):
        raise ClientError(f"label_info must be a list of {{'name', 'idx'}}, got {shown(info)}")
    entries = [checked(LabelEntry, entry, "each entry of label_info") for entry in info]
    return [(entry.name.strip(), entry.index) for entry in entries]


class LabelMap:
    """The structures of one study list and their indices, kept in one small file.

    With `configured` names only those exist; without, every name that a saved label brings is learnt.

    Args:
        path: the file.
        configured: names, in the order of their indices.
        write: replaces the file.
        lock: keeps others from the file of a name meanwhile.
    """

    def __init__(
        self,
        path: Path,
        configured: Sequence[str] = (),
        write: Write = write_atomically,
        lock: Callable[[str], AbstractContextManager[Any]] = FileLock,
    ) -> None:
        self.path = path
        self.configured = tuple(configured)
        self._lock, self._lock_file = Lock(), lock
        self._file = KeptFile(path, lambda file: _indices(read_record(file)), record_bytes, write)
        self._stamp: Stamp | None = None
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

    def spelled(self, name: str) -> str:
        """A structure's name as the list knows it, whatever capitals and blanks it comes with."""
        plain = " ".join(name.split())
        known = {_folded(each): each for each in reversed(self.names)}
        return known.get(_folded(plain), plain)

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
        names = [self.spelled(name) for name in names]
        self.check(names)
        if any(name not in self.names for name in names):
            self._add(names)
        known = self.names
        return {name: known[name] for name in names}

    def with_new(self, names: Iterable[str]) -> dict[str, int]:
        """{name: index} of these names; a new name gets the index it would be given, but it is not remembered."""
        names = [self.spelled(name) for name in names]
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
        with self._lock, self._lock_file(f"{self.path}.lock"):
            self._read()
            grown = {**(lost or {}), **self._all}
            for name in names:
                grown.setdefault(name, next(index for index in count(1) if index not in grown.values()))
            if max(grown.values(), default=0) > LARGEST_INDEX:
                raise ClientError(f"a study list has at most {LARGEST_INDEX} structures, {len(grown)} are named")
            self._file.write(grown)
            self._read()

    def _read(self) -> None:
        stamp = stamp_of(self.path)
        if stamp != self._stamp or stamp is None:
            indices = self._file.read()
            # Where it is broken, saved labels say their own names, so it grows again from what this process knows
            broken = stamp is not None and indices is None
            self._all = dict(self._all) if broken else indices or {}
            self._stamp = None if broken else stamp


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _indices(value: Any) -> dict[str, int]:
    """{structure: index} as the map's file holds it. Raises RecordError."""
    if not isinstance(value, dict) or not all(
        isinstance(index, int) and 0 < index <= LARGEST_INDEX for index in value.values()
    ):
        raise RecordError(f"structures must have indices from 1 to {LARGEST_INDEX}")
    return dict(value)
