"""A folder of studies as MONAI Label sees it, and the truth kept in another folder."""

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from lib.imaging.images import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label

_FILES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".dcm")  # a slice is no study: its folder is


class StudyListError(ValueError):
    """A folder that does not hold what was expected; the message says what was."""


@dataclass(frozen=True)
class Study:
    """One image: its id on the server, its file or DICOM folder."""

    id: str
    path: Path


def find_studies(folder: Path) -> list[Study]:
    """The studies of a folder in order of their names: image files, and sub-folders that hold one DICOM series each."""
    if not folder.is_dir():
        raise StudyListError(f"the studies must be in a folder, and {folder} is none")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    studies = [Study(name, path) for path in entries if (name := _study_id(path))]
    if not studies:
        raise StudyListError(f"{folder} holds no study: {', '.join(_FILES)} or folders with a DICOM series")
    return studies


def copy_studies(studies: list[Study], folder: Path) -> None:
    """Copies the images, and only them, so that a server can write beside them."""
    folder.mkdir(parents=True)
    for study in studies:
        if study.path.is_dir():
            shutil.copytree(study.path, folder / study.path.name)
        else:
            shutil.copyfile(study.path, folder / study.path.name)


@dataclass(frozen=True)
class Truth:
    """Ground truth of some studies: label maps called like the studies, and the name of each value."""

    folder: Path
    names: Mapping[str, int]

    @classmethod
    def in_folder(cls, folder: Path) -> "Truth":
        """Names come from `labels` of a dataset.json beside or in the folder; without it from the values."""
        if not folder.is_dir():
            raise StudyListError(f"the truth must be in a folder, and {folder} is none")
        for path in (folder.parent / "dataset.json", folder / "dataset.json"):
            if path.is_file():
                return cls(folder, _read_names(path))
        return cls(folder, {})

    def path_of(self, study: Study) -> Path | None:
        """The label file of a study, or None."""
        stems = dict.fromkeys((study.id, _without_suffix(study.path.name)))
        candidates = (self.folder / f"{stem}{suffix}" for stem in stems for suffix in LABEL_SUFFIXES)
        return next((path for path in candidates if path.is_file()), None)

    def need(self, study: Study) -> Path:
        """The label file of a study that has to have one. Raises StudyListError."""
        path = self.path_of(study)
        if path is None:
            raise StudyListError(
                f"{study.path.name} needs its truth to be the template: a label map called {study.id}"
                f"{' or '.join(LABEL_SUFFIXES)} in {self.folder}"
            )
        return path

    def read(self, study: Study) -> np.ndarray | None:
        """The label map on the study's grid, or None where there is none."""
        path = self.path_of(study)
        return None if path is None else read_label(path, like=read_image(study.path))

    def structures(self, label: np.ndarray) -> dict[str, int]:
        """Name and value of each structure that `label` holds."""
        named = {value: name for name, value in self.names.items()}
        return {named.get(value, f"label_{value}"): value for value in map(int, np.unique(label)) if value}


def _study_id(path: Path) -> str | None:
    if path.is_dir():
        return _series_uid(path)
    return _without_suffix(path.name) if path.name.lower().endswith(_FILES) else None


def _series_uid(folder: Path) -> str | None:
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            return str(
                pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
            )
        except (InvalidDicomError, AttributeError):
            continue
    return None


def _without_suffix(name: str) -> str:
    suffixes = sorted(IMAGE_SUFFIXES, key=len, reverse=True)
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _read_names(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(value) for value, name in json.loads(path.read_text())["labels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyListError(f'{path} must hold "labels": {{"1": name, ...}}: {error!r}') from error


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that work through a study list with its truth: --studies, --truth, --limit, --weights."""
    parser.add_argument("--studies", type=Path, metavar="S", help="study folder; it is copied (default: phantoms)")
    parser.add_argument("--truth", type=Path, metavar="T", help="folder with label maps called like the studies")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N studies")
    parser.add_argument("--weights", type=Path, metavar="W", help="a safetensors file (default: the shipped weights)")


def count(text: str) -> int:
    """An option's whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return int(text)
