"""A study with its final label, as trainings learn from it: whole, or as two halves."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.imaging.formats import DETACHED
from lib.imaging.images import Image, read_image, read_label
from lib.imaging.volumes import Stack
from lib.inference.templates import Template, TemplateError

logger = logging.getLogger(__name__)

Window = tuple[slice, ...]


@dataclass(frozen=True)
class LabelledStudy:
    """A study with its final label.

    Attributes:
        id, image, label: name and files.
        names: structure to its value in the label.
        checksum: changes when the files do.
        manually_annotated: a person drew, prompted or corrected it; False for an automatic mask that was accepted,
            which is no truth to judge by.
        half: 0 or 1 for the part on either side of where half of the label lies; None for all of it.
    """

    id: str
    image: Path
    label: Path
    names: Mapping[str, int]
    checksum: str = ""
    manually_annotated: bool = True
    half: int | None = None

    def read(self) -> Template:
        """Image and label, as the templates that they are. Raises ImageError, TemplateError."""
        image = read_image(self.image)
        label = read_label(self.label, image)
        if self.half is not None:
            window = _halves(image, label)[self.half]
            image, label = _cropped(image, window), label[window]
        return Template(self.id, image, label, self.names)

    def halves(self) -> list[LabelledStudy]:
        """The study as two: one can be learnt from while the other is held out."""
        return [dataclasses.replace(self, half=half) for half in (0, 1)]


def keep_labels(studies: Iterable[LabelledStudy], folder: Path) -> list[LabelledStudy]:
    """The studies with their labels as they are now, which a person may replace or take away while they are learnt.

    Args:
        folder: for them; what was in it goes.

    Returns:
        Those whose label is still there.

    Raises:
        OSError: the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = []
    for number, study in enumerate(studies):
        label = folder / f"{number}-{study.label.name}"[-200:]
        if study.label.name.lower().endswith(DETACHED):  # its voxels lie in a file that it names
            label = study.label
        else:
            try:
                _keep(study.label.resolve(), label)
            except FileNotFoundError:
                logger.info("the label of %s was taken away meanwhile, it is not learnt from", study.id)
                continue
        kept.append(dataclasses.replace(study, label=label))
    return kept


def _keep(file: Path, there: Path) -> None:
    """A second name for a file that others only ever replace as a whole; a copy on another file system."""
    try:
        os.link(file, there)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(file, there)


def _halves(image: Image, label: np.ndarray) -> tuple[Window, Window]:
    """Two windows of an image, cut between slices, or along the label's longest side where one slice shows it."""
    rows = [
        np.flatnonzero(label.any(axis=tuple(n for n in range(label.ndim) if n != axis))) for axis in range(label.ndim)
    ]
    axis = Stack.of(image).own_axis
    if axis >= label.ndim or len(rows[axis]) < 2:
        axis = int(np.argmax([len(own) for own in rows]))
    if len(rows[axis]) < 2:
        raise TemplateError("the label is too small to be held out by halves: label more of it, or a second study")
    amount = np.moveaxis(label > 0, axis, 0).reshape(label.shape[axis], -1).sum(axis=1).cumsum()
    # the part before the cut shows the first row, the part after it the last one
    cut = 1 + int(np.argmin(np.abs(amount[: rows[axis][-1]] - amount[-1] / 2)))
    before, after = [slice(0, size) for size in label.shape], [slice(0, size) for size in label.shape]
    before[axis], after[axis] = slice(0, cut), slice(cut, label.shape[axis])
    return tuple(before), tuple(after)


def _cropped(image: Image, window: Window) -> Image:
    """The window of an image, where it was in space."""
    affine = image.affine.copy()
    start = np.array([part.start for part in window] + [0] * (3 - len(window)))
    affine[:3, 3] += affine[:3, :3] @ start
    return Image(image.array[window], affine)
