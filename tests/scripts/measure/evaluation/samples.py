"""Small labelled data sets and cases for tests of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image as Picture

from lib.imaging.images import Image
from scripts.measure.evaluation.cases import Case

SHAPE = (40, 30)


def square(number: int, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a bright rectangle at a place of its own, and its label map (1 the rectangle, 2 a stripe)."""
    rng = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    i, j = 6 + number % 7, 4 + (3 * number) % 9
    label[i : i + 12, j : j + 9] = 1
    label[-6:-3, 5:-5] = 2
    return (60 * rng.random(shape) + 150 * (label == 1) + 80 * (label == 2)).astype(np.uint8), label


def case(number: int, shape: tuple[int, int] = SHAPE) -> Case:
    """One such image without a file."""
    image, label = square(number, shape)
    return Case(f"squares/{number}.png", str(number), Image(image, np.diag([-1.0, -1.0, 1.0, 1.0])), label)


def volume_case(number: int) -> Case:
    """A (12, 16, 6) volume with a bright block, of thick slices along its last axis."""
    rng = np.random.default_rng(number)
    label = np.zeros((12, 16, 6), np.uint8)
    label[3:9, 4 + number : 11 + number, 1:5] = 1
    return Case(
        f"blocks/{number}", str(number), Image(rng.random(label.shape) + 3 * label, np.diag([1.0, 1, 4, 1])), label
    )


def write_squares(folder: Path, files: int = 6, **about: object) -> Path:
    """A 2-D data set in the format of `lib.learning.datasets`."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(files):
        for name, array in zip(("images", "labels"), square(number), strict=True):
            Picture.fromarray(array.T).save(folder / name / f"{number}.png")
    known = {"name": "squares", "dims": 2, "labels": {"1": "square", "2": "stripe"}, "split": "dev", "terms": "open"}
    (folder / "dataset.json").write_text(json.dumps(known | about))
    return folder


def write_blocks(folder: Path, files: int = 3) -> Path:
    """A 3-D data set in the format of `lib.learning.datasets`."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(files):
        one = volume_case(number)
        for name, array in (("images", one.image.array.astype(np.float32)), ("labels", one.label)):
            nibabel.save(nibabel.Nifti1Image(array, one.image.affine), folder / name / f"{number}.nii.gz")
    known = {"name": "blocks", "dims": 3, "labels": {"1": "block"}, "split": "dev", "terms": "open"}
    (folder / "dataset.json").write_text(json.dumps(known))
    return folder
