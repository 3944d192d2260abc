"""Which studies an archive holds: of a folder on this machine, or at an address of fsspec.

A source lists lazily and twice (to count, then to work), so that memory does not grow with the archive. DICOMweb
servers and MONAI Label's study lists are in `scripts.archive.servers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from lib.imaging.formats import DETACHED, DICOM_SUFFIXES, IMAGE_SUFFIXES, is_dicom
from scripts.archive.storage import Storage

FILES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in DICOM_SUFFIXES)
INDEX = "datastore_v2.json"  # of a MONAI Label study list, beside its images
ONE_FILE = tuple(suffix for suffix in FILES if suffix not in DETACHED)  # that can be fetched by themselves


@dataclass(frozen=True)
class Study:
    """A study of an archive.

    Attributes:
        id: its name in the manifest and of its mask, below the archive.
        place: where the source finds it.
        attempt: how often it killed its worker so far.
    """

    id: str
    place: str = ""
    attempt: int = 0


class Source(Protocol):
    """Where studies come from; picklable, for workers open them."""

    @property
    def address(self) -> str:
        """Of the archive, for people."""

    def studies(self) -> Iterator[Study]:
        """Every study, in an order that stays."""

    def opened(self, study: Study) -> AbstractContextManager[Path]:
        """A study as a file, or as the folder of a DICOM series, on this machine.

        Raises:
            Away: the archive cannot be reached.
        """


class Folder:
    """A folder's images: files at any depth, and folders that hold DICOM files, each one series.

    Args:
        address: a path, or an address of fsspec; DICOM series are taken of paths only.
    """

    def __init__(self, address: str) -> None:
        self.storage = Storage(address)

    @property
    def address(self) -> str:
        """The path or address."""
        return self.storage.address

    def studies(self) -> Iterator[Study]:
        """In the order of names, folder by folder; what begins with a dot is passed over."""
        for folder, folders, names in self.storage.walk():
            own = folder == "." and INDEX in names  # of a MONAI Label study list
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not (own and name == "labels"))
            below = "" if folder == "." else f"{folder}/"
            for name in sorted(names):
                if name.lower().endswith(FILES if self.storage.is_local else ONE_FILE) and not name.startswith("."):
                    yield Study(f"{below}{name}", f"{below}{name}")
            if below and self.storage.is_local and self._is_series(folder, names):
                yield Study(folder, folder)

    @contextmanager
    def opened(self, study: Study) -> Iterator[Path]:
        """The file or folder itself, or a copy of a file that lies elsewhere."""
        with TemporaryDirectory(prefix="oneprompt-study-") as folder:
            yield self.storage.fetch(study.place, Path(folder))

    def _is_series(self, folder: str, names: list[str]) -> bool:
        first = next((name for name in sorted(names) if name.lower().endswith(DICOM_SUFFIXES) or "." not in name), None)
        return first is not None and is_dicom(Path(self.address) / folder / first)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` (from 1) of a source, for several runs beside each other."""

    source: Source
    number: int
    count: int

    @property
    def address(self) -> str:
        """With the part's number."""
        return f"{self.source.address} (part {self.number} of {self.count})"

    def studies(self) -> Iterator[Study]:
        """Those whose ids hash into this part."""
        for study in self.source.studies():
            digest = hashlib.sha256(study.id.encode()).digest()
            if int.from_bytes(digest[:8], "big") % self.count == self.number - 1:
                yield study

    def opened(self, study: Study) -> AbstractContextManager[Path]:
        """As the source opens it."""
        return self.source.opened(study)
