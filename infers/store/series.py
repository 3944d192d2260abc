"""DICOM series in the sub-folders of a study list: one image a series, its id the SeriesInstanceUID.

Headers are read once per folder and remembered while the folder does not change. A folder that holds several series
is shown as one folder of links per series, because readers take whole folders.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

logger = logging.getLogger(__name__)

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
        self._known: dict[Path, tuple[tuple[int, int], list[Series]]] = {}

    def scan(self) -> dict[str, Series]:
        """{id: series} of everything below the root now."""
        found: dict[str, Series] = {}
        for folder, names in self._folders():
            try:
                stamp = (folder.stat().st_mtime_ns, len(names))
            except OSError:
                continue  # removed meanwhile
            if self._known.get(folder, (None,))[0] != stamp:
                self._known[folder] = (stamp, self._read(folder, names))
            for series in self._known[folder][1]:
                first = found.setdefault(series.uid, series)
                if first is not series:
                    logger.warning("series %s: %s is used, %s not", series.uid, first.folder, folder)
        return found

    def _folders(self) -> Iterator[tuple[Path, list[str]]]:
        for parent, folders, names in os.walk(self._root):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and not (
                Path(parent) == self._root and f in self._skip))  # fmt: skip
            candidates = sorted(n for n in names if not n.startswith(".") and _may_be_dicom(n))
            if candidates:
                yield Path(parent), candidates

    def _read(self, folder: Path, names: list[str]) -> list[Series]:
        files: dict[str, list[str]] = defaultdict(list)
        infos: dict[str, dict[str, str]] = {}
        for name in names:
            if info := _header(folder / name):
                uid = info["SeriesInstanceUID"]
                files[uid].append(name)
                infos.setdefault(uid, info)
        images = [uid for uid in files if infos[uid]["Modality"] not in NO_IMAGES]
        if len(files) == 1 and folder != self._root:
            return [Series(uid, folder, tuple(files[uid]), infos[uid]) for uid in images]
        return [Series(uid, self._view(uid, folder, files[uid]), tuple(files[uid]), infos[uid]) for uid in images]

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


def _header(path: Path) -> dict[str, str] | None:
    tags = ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "StudyTime", "Modality", "Rows"]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except (InvalidDicomError, OSError, EOFError, ValueError) as error:
        if path.suffix:
            logger.warning("%s is not read as DICOM: %s", path, error)
        return None
    if "Rows" not in header:
        return None
    info = {tag: str(header.get(tag, "")) for tag in tags[:-1]}
    uid = info["SeriesInstanceUID"]
    if not uid or not all(part.isdigit() for part in uid.split(".")):  # a name for files, so nothing else may enter
        info["SeriesInstanceUID"] = "".join(c if c.isalnum() else "_" for c in path.parent.name) or "series"
    return info
