"""Labelled data sets on disk, in the one format that `scripts.pretrain` and `scripts.evaluate` read.

    NAME/images/FILE      .png or .nii.gz
    NAME/labels/FILE      same file name; 0 background, 1..K structures
    NAME/dataset.json     name, dims, modality, anatomy, labels {index: name}, licence, source_repo, split, terms, n,
                          and optionally subjects {file: subject}

Several images can show one subject; without `subjects` every file is its own. Templates and queries never share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import Image, read_image, read_label

SUFFIXES = (".png", ".nii.gz", ".nii")


class DatasetError(ValueError):
    """A folder that is not in the format."""


@dataclass(frozen=True)
class Dataset:
    """One data set; images are read when asked for.

    Attributes:
        folder: where it lies; its name is the data set's short name.
        labels: label value to structure name.
        files: sorted file names, the same in `images` and `labels`.
        subjects: file name to subject.
        about: the whole dataset.json.
    """

    folder: Path
    labels: Mapping[int, str]
    files: tuple[str, ...]
    subjects: Mapping[str, str]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def dims(self) -> int:
        return int(self.about["dims"])

    def read(self, file: str) -> tuple[Image, np.ndarray]:
        """Image and label map of one file, same shape. Raises DatasetError where they do not fit."""
        image = read_image(self.folder / "images" / file)
        label = read_label(self.folder / "labels" / file)
        if label.shape != image.array.shape:
            raise DatasetError(
                f"{self.name}/{file}: image and label must have one shape, got {image.array.shape} and {label.shape}"
            )
        return image, label


def read_dataset(folder: str | Path) -> Dataset:
    """Open one data set folder. Raises DatasetError naming what is missing."""
    folder = Path(folder)
    about = _read_about(folder)
    files = _files(folder / "images")
    if unlabelled := sorted(set(files) - set(_files(folder / "labels"))):
        raise DatasetError(f"every image of {folder} needs a label of the same name, {unlabelled[:3]} have none")
    if not files:
        raise DatasetError(f"{folder / 'images'} must hold files ending in {SUFFIXES}, found none")
    subjects = about.get("subjects", {})
    return Dataset(
        folder=folder,
        labels=about["labels"],
        files=files,
        subjects={file: str(subjects.get(file, file)) for file in files},
        about=about,
    )


def read_datasets(root: str | Path, split: str | None = None, terms: str | None = None) -> list[Dataset]:
    """All data sets below `root` (or `root` itself), of one split and terms where given; sorted by name."""
    root = Path(root)
    folders = [root] if (root / "dataset.json").is_file() else sorted(p.parent for p in root.glob("*/dataset.json"))
    if not folders:
        raise DatasetError(f"{root} must be a data set folder or a folder of them (NAME/dataset.json), found none")
    datasets = [read_dataset(folder) for folder in folders]
    chosen = [d for d in datasets if split in (None, d.about.get("split")) and terms in (None, d.about.get("terms"))]
    if not chosen:
        there = sorted({(str(d.about.get("split")), str(d.about.get("terms"))) for d in datasets})
        raise DatasetError(f"no data set below {root} has split {split!r} and terms {terms!r}; there are {there}")
    return chosen


def _read_about(folder: Path) -> dict[str, Any]:
    """dataset.json with its labels as {value: name}."""
    try:
        about = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder} must hold a readable dataset.json (see lib/learning/datasets.py): {error}"
        ) from error
    path = folder / "dataset.json"
    if missing := {"dims", "labels"} - set(about if isinstance(about, dict) else ()):
        raise DatasetError(f"{path} must have the keys dims and labels, {sorted(missing)} missing")
    if about["dims"] not in (2, 3):
        raise DatasetError(f"dims in {path} must be 2 or 3, got {about['dims']!r}")
    try:
        labels = {int(value): str(name) for value, name in about["labels"].items()}
    except (AttributeError, ValueError) as error:
        raise DatasetError(f'labels in {path} must look like {{"1": "liver"}}, got {about["labels"]!r}') from error
    if not labels or min(labels) < 1:
        raise DatasetError(f"labels in {path} must name values of 1 and more, got {sorted(labels)}: 0 is background")
    return {**about, "labels": labels}


def _files(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} must be a folder, found none")
    return tuple(sorted(p.name for p in folder.iterdir() if p.name.endswith(SUFFIXES)))
