"""DICOM series in the sub-folders of a study list: one image a series, its id the SeriesInstanceUID.

Headers are read once per folder and remembered while the folder does not change. A folder that holds several series
is shown as one folder of links per series, because readers take whole folders. A file that cannot be read, whatever it
does to the reader, costs nobody more than that file: it is named in `problems`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from infers.errors import reason_of
from infers.records import plain_record

logger = logging.getLogger(__name__)

UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # as DICOM has them
NOT_UNICODE = "its name is not Unicode: rename it"
DICOM_SUFFIXES = {".dcm", ".ima", ".dicom", ""}
NO_IMAGES = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC"}  # modalities without a grey image


@dataclass(frozen=True)
class Series:
    """One image of a study list that is kept as DICOM: its id, its folder and files, and what clients are shown."""

    uid: str
    folder: Path
    names: tuple[str, ...]
    info: dict[str, str]

    def remove(self) -> None:
        """Delete the series' files, and its folder if nothing else is in it."""
        for name in self.names:
            (self.folder / name).resolve().unlink(missing_ok=True)
            (self.folder / name).unlink(missing_ok=True)  # where it was a link
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class SeriesScanner:
    """Finds the series below a folder; `views` is where folders of links are made for folders of several series."""

    def __init__(self, root: Path, views: Path, skip: tuple[str, ...] = ("labels",)) -> None:
        self._root, self._views, self._skip = root, views, skip
        self._known: dict[Path, tuple[tuple[int, int], list[Series], dict[str, str]]] = {}
        self.problems: dict[str, str] = {}  # {path below the root: why it could not be read} at the last scan

    def scan(self) -> dict[str, Series]:
        """{id: series} of everything below the root now."""
        found: dict[str, Series] = {}
        self.problems = {}
        for folder, names in self._folders():
            try:
                stamp = (folder.stat().st_mtime_ns, len(names))
            except OSError:
                continue  # removed meanwhile
            if folder not in self._known or self._known[folder][0] != stamp:
                self._known[folder] = (stamp, *self._read(folder, names))
            for series in self._known[folder][1]:
                first = found.setdefault(series.uid, series)
                if first is not series:
                    self._note(self.problems, folder, f"series {series.uid} is already there, in {first.folder}")
            self.problems |= self._known[folder][2]
        return found

    def _folders(self) -> Iterator[tuple[Path, list[str]]]:
        for parent, folders, names in os.walk(self._root):
            for name in (name for name in (*folders, *names) if not is_unicode(name)):
                self._note(self.problems, Path(parent) / name, NOT_UNICODE)
            folders[:] = sorted(f for f in folders if is_unicode(f) and not f.startswith(".") and not (
                Path(parent) == self._root and f in self._skip))  # fmt: skip
            candidates = sorted(n for n in names if is_unicode(n) and not n.startswith(".") and _may_be_dicom(n))
            if candidates:
                yield Path(parent), candidates

    def _read(self, folder: Path, names: list[str]) -> tuple[list[Series], dict[str, str]]:
        """The series of one folder, and what could not be read in it."""
        files: dict[str, list[str]] = defaultdict(list)
        infos: dict[str, dict[str, str]] = {}
        problems: dict[str, str] = {}
        for name in names:
            try:
                info = _header(folder / name)
            except Exception as error:  # a broken header fails in as many ways as there are bytes
                if Path(name).suffix or not isinstance(error, InvalidDicomError | OSError):
                    self._note(problems, folder / name, f"cannot be read as DICOM: {reason_of(error)[:200]}")
                continue
            if info:
                uid = info["SeriesInstanceUID"]
                files[uid].append(name)
                infos.setdefault(uid, info)
        found = []
        for uid in (uid for uid in files if infos[uid]["Modality"] not in NO_IMAGES):
            try:
                own = len(files) == 1 and folder != self._root
                found.append(
                    Series(uid, folder if own else self._view(uid, folder, files[uid]), tuple(files[uid]), infos[uid])
                )
            except OSError as error:
                for name in files[uid]:
                    self._note(problems, folder / name, f"its series has no folder of its own: {error}")
        return found, problems

    def _note(self, problems: dict[str, str], path: Path, reason: str) -> None:
        name = shown(path.relative_to(self._root))
        logger.warning("%s: %s", name, reason)
        problems[name] = reason

    def _view(self, uid: str, folder: Path, names: list[str]) -> Path:
        view = self._views / uid
        view.mkdir(parents=True, exist_ok=True)
        links = {name: os.path.relpath(folder / name, view) for name in names}  # relative: study folders are moved
        for there in view.iterdir():
            if not there.is_symlink() or os.readlink(there) != links.get(there.name):
                there.unlink()  # removed from the series, or copied as a file with the whole study folder
        for name, target in links.items():
            if not (view / name).is_symlink():
                (view / name).symlink_to(target)
        return view


def _may_be_dicom(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdigit()


def is_unicode(name: str) -> bool:
    """Whether a file name can be written down: the system hands over any bytes, and half of them as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: Path) -> str:
    """A path for people, of any bytes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _header(path: Path) -> dict[str, str] | None:
    """What clients are shown of a DICOM image; None for what is none. Raises whatever pydicom raises."""
    tags = ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "StudyTime", "Modality", "Rows"]
    if not path.is_file():  # a pipe would never end
        raise OSError("it is no plain file")
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    if "Rows" not in header:
        return None
    info = {tag: plain_record(str(header.get(tag, ""))) for tag in tags[:-1]}
    uid = info["SeriesInstanceUID"]
    if not UID.fullmatch(uid):  # a name for files, so nothing else may enter
        name = "".join(c if c.isalnum() else "_" for c in path.parent.name)
        info["SeriesInstanceUID"] = name.encode()[:64].decode(errors="ignore") or "series"
    return info
