"""DICOM series below a study list: one image a series, its id the SeriesInstanceUID.

A series is what belongs together: files of one UID, patient and study, in however many folders they lie. A UID alone is
no identity, because careless exports and anonymisation leave it empty or give it twice; then patient, study, folder,
size and place tell the series apart, and the second one gets an id of its own. Which id is whose is remembered, so that
a label never changes its patient when files are added.

Headers are read once per folder and remembered while the folder does not change. A series that shares its folder, or
lies in several, is shown as one folder of links, because readers take whole folders. A file that cannot be read,
whatever it does to the reader, costs nobody more than that file: it is named in `problems`; what is left out for
another reason is named in `left_out`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infers.environment import IMAGE_EXTENSIONS
from infers.records import read_record, record_bytes
from infers.store.dicom_files import DicomFile, NoImage, may_be_dicom, says_dicom, why_unreadable
from infers.store.folders import NOT_UNICODE, folders_of, is_unicode, shown
from infers.store.sidecars import checksum
from lib.imaging.files import KeptFile, Write, write_atomically
from lib.imaging.stamps import Stamp, stamp_of

logger = logging.getLogger(__name__)

IDENTITIES = "series.json"  # beside the views: {id: what the series is told apart by}
LONGEST_NAME = 64  # bytes of an id made of a folder's name


@dataclass(frozen=True)
class Series:
    """One image of a study list that is kept as DICOM.

    Attributes:
        uid: its id: the SeriesInstanceUID, unless that is none or another series has it too.
        folder: what readers take: its own folder, or one of links.
        names: its files in that folder.
        info: what clients are shown.
        files: where its files lie.
        repeats: files that repeat one of them, byte for byte.
        note: what a person should know of how it was found; empty as a rule.
    """

    uid: str
    folder: Path
    names: tuple[str, ...]
    info: dict[str, str]
    files: tuple[Path, ...] = ()
    repeats: tuple[Path, ...] = ()
    note: str = ""

    def remove(self) -> None:
        """Delete the series' files with their copies, and their folders if nothing else is in them."""
        for file in (*self.files, *self.repeats):
            file.unlink(missing_ok=True)
        for name in self.names:
            (self.folder / name).unlink(missing_ok=True)  # where it was a link
        for folder in {self.folder, *(file.parent for file in (*self.files, *self.repeats))}:
            with contextlib.suppress(OSError):
                folder.rmdir()


@dataclass
class _Group:
    """Files that belong together, and what tells them apart from others."""

    files: list[DicomFile]
    identity: tuple[str, ...]
    name: str  # the id it would like to have
    repeats: list[DicomFile] = field(default_factory=list)
    note: str = ""


class SeriesScanner:
    """Finds the series below a folder; `views` is where folders of links are made, `write` remembers their ids."""

    def __init__(
        self, root: Path, views: Path, skip: tuple[str, ...] = ("labels",), write: Write = write_atomically
    ) -> None:
        self._root, self._views, self._skip = root, views, skip
        self._identities = KeptFile(views.parent / IDENTITIES, _load_identities, record_bytes, write)
        self._known: dict[Path, tuple[Stamp, list[DicomFile], dict[str, str], dict[str, str]]] = {}
        self.problems: dict[str, str] = {}  # {path below the root: why it could not be read} at the last scan
        self.left_out: dict[str, str] = {}  # {path below the root: why it is no image} at the last scan

    def scan(self) -> dict[str, Series]:
        """{id: series} of everything below the root now."""
        self.problems, self.left_out = {}, {}
        files: list[DicomFile] = []
        for folder, names in self._folders():
            stamp = stamp_of(folder)
            if stamp is None:
                continue  # removed meanwhile
            stamp = (*stamp, len(names))
            if folder not in self._known or self._known[folder][0] != stamp:
                self._known[folder] = (stamp, *self._read(folder, names))
            _, own, problems, left_out = self._known[folder]
            files += own
            self.problems |= problems
            self.left_out |= left_out
        return self._series(files)

    def _folders(self) -> Iterator[tuple[Path, list[str]]]:
        for folder in folders_of(self._root):
            if folder.path.relative_to(self._root).parts[:1] in [(name,) for name in self._skip]:
                continue
            for name in (name for name in folder.names if not is_unicode(name)):
                self._note(self.problems, folder.path / name, NOT_UNICODE)
            others = [name for name in folder.names if is_unicode(name) and not name.lower().endswith(IMAGE_EXTENSIONS)]
            if others:
                yield folder.path, others

    def _read(self, folder: Path, names: list[str]) -> tuple[list[DicomFile], dict[str, str], dict[str, str]]:
        """The images among one folder's files, what could not be read in it, and what is no image."""
        files: list[DicomFile] = []
        problems: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for name in names:
            if not (may_be_dicom(name) or says_dicom(folder / name)):
                continue
            try:
                files.append(DicomFile.read(folder / name))
            except NoImage as reason:
                left_out[shown((folder / name).relative_to(self._root))] = str(reason)
            except Exception as error:  # a broken header fails in as many ways as there are bytes
                if why := why_unreadable(folder / name, error):
                    self._note(problems, folder / name, why)
        return files, problems, left_out

    def _series(self, files: Sequence[DicomFile]) -> dict[str, Series]:
        groups = [part for group in _groups(files, self._root) for part in _by_folder(group, self._root)]
        crowded = defaultdict(set)  # folder: the groups in it
        for number, group in enumerate(groups):
            for file in (*group.files, *group.repeats):
                crowded[file.path.parent].add(number)
        series: dict[str, Series] = {}
        for id, group in self._identified(groups).items():
            folders = {file.path.parent for file in group.files}
            folder = next(iter(folders))
            others = [path for path in (*self.left_out, *self.problems) if (self._root / path).parent == folder]
            own = len(folders) == 1 and folder != self._root and len(crowded[folder]) == 1 and not others
            paths = tuple(file.path for file in group.files)
            try:
                place = folder if own else self._view(id, paths)
            except OSError as error:
                for path in paths:
                    self._note(self.problems, path, f"its series has no folder of its own: {error}")
                continue
            names = tuple(path.name for path in paths) if own else tuple(sorted(_link_names(paths)))
            info = {**group.files[0].info, "SeriesInstanceUID": group.files[0].uid or id}
            repeats = tuple(file.path for file in group.repeats)
            series[id] = Series(id, place, names, info, paths, repeats, group.note)
        return series

    def _identified(self, groups: Sequence[_Group]) -> dict[str, _Group]:
        """{id: group}: ids that were given before stay."""
        try:
            known = self._identities.read() or {}
        except OSError:
            known = {}
        before, given = {digest: id for id, digest in known.items()}, {}
        digests = [hashlib.sha256("\n".join(group.identity).encode()).hexdigest()[:16] for group in groups]
        pairs = sorted(zip(digests, groups, strict=True), key=lambda pair: pair[0] not in before)
        for digest, group in pairs:
            id = before.get(digest) or (group.name if group.name not in given else f"{group.name}-{digest[:8]}")
            given[id] = (digest, group)
        if (now := {**known, **{id: digest for id, (digest, _) in given.items()}}) != known:
            try:
                self._identities.write(now)
            except OSError as error:  # a folder that cannot be written to is served all the same
                logger.warning("which series has which id is not remembered: %s", error)
        by_path = sorted(given, key=lambda id: given[id][1].files[0].path)
        return {id: given[id][1] for id in by_path}

    def _note(self, problems: dict[str, str], path: Path, reason: str) -> None:
        name = shown(path.relative_to(self._root))
        logger.warning("%s: %s", name, reason)
        problems[name] = reason

    def _view(self, id: str, files: Sequence[Path]) -> Path:
        view = self._views / id
        view.mkdir(parents=True, exist_ok=True)
        links = {name: os.path.relpath(file, view) for name, file in _link_names(files).items()}
        for there in view.iterdir():  # relative links: study folders are moved
            if not there.is_symlink() or os.readlink(there) != links.get(there.name):
                there.unlink()  # removed from the series, or copied as a file with the whole study folder
        for name, target in links.items():
            if not (view / name).is_symlink():
                (view / name).symlink_to(target)
        return view


def _groups(files: Sequence[DicomFile], root: Path) -> list[_Group]:
    """What the files themselves say belongs together."""
    by_key: dict[tuple[str, ...], list[DicomFile]] = defaultdict(list)
    for file in files:
        folder = str(file.path.parent.relative_to(root))
        key = ("uid", file.uid, *file.series) if file.uid else ("folder", folder, *file.series, *file.described)
        by_key[key].append(file)
    uids = [key[1] for key in by_key if key[0] == "uid"]
    groups = []
    for key, own in by_key.items():
        note = ""
        if key[0] == "uid" and uids.count(key[1]) > 1:
            note = "another patient's or study's series has the same UID: told apart by patient and study"
        elif key[0] == "folder":
            note = "it has no SeriesInstanceUID: its files are those of one folder, patient and series number"
        groups.append(_Group(own, key, key[1] if key[0] == "uid" else _name(own[0].path.parent), note=note))
    return groups


def _by_folder(group: _Group, root: Path) -> list[_Group]:
    """A group without copies, and in parts where its folders hold whole volumes of their own."""
    first: dict[tuple[str, ...], DicomFile] = {}
    files: list[DicomFile] = []
    for file in group.files:
        same = first.setdefault(file.instance, file)
        if same is not file and same.path.parent != file.path.parent and _same_bytes(same.path, file.path):
            group.repeats.append(file)
        else:
            files.append(file)
    group.files = files
    parts: dict[Path, list[DicomFile]] = defaultdict(list)
    for file in files:
        parts[file.path.parent].append(file)
    forms = [{file.form for file in part} for part in parts.values()]
    places = [{file.place for file in part if file.place} for part in parts.values()]
    apart = len(set(map(frozenset, forms))) > 1 and not set.intersection(*forms)
    repeated = bool(places and places[0]) and all(each == places[0] for each in places)
    if len(parts) < 2 or not (apart or repeated):
        if len(parts) > 1:
            group.note = f"its {len(files)} files lie in {len(parts)} folders and are one series"
        return [group]
    note = "files of the same series UID in other folders are another volume (size, orientation, or the same places)"
    groups = []
    for folder, part in parts.items():
        repeats = [file for file in group.repeats if first[file.instance] in part]
        groups.append(_Group(part, (*group.identity, str(folder.relative_to(root))), group.name, repeats, note))
    return groups


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return checksum(one) == checksum(other)
    except OSError:  # removed meanwhile
        return False


def _load_identities(path: Path) -> dict[str, str]:
    return {str(id): str(digest) for id, digest in dict(read_record(path)).items()}


def _name(folder: Path) -> str:
    """A folder's name as an id: nothing else may enter, because files are called by it."""
    name = "".join(c if c.isalnum() else "_" for c in folder.name)
    return name.encode()[:LONGEST_NAME].decode(errors="ignore") or "series"


def _link_names(files: Sequence[Path]) -> dict[str, Path]:
    """{name: file}: names of files from several folders, each once."""
    links: dict[str, Path] = {}
    for number, file in enumerate(files):
        links[file.name if file.name not in links else f"{number:05d}-{file.name}"] = file
    return links
