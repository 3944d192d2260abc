"""Labelled volumes prepared once for a task and kept as files that are read where a patch lies, not as a whole.

A study says nothing about a structure that its label does not name: such voxels are known to be neither this structure
nor background (`learner.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.uniseg.plan import read_study
from lib.segmenters.uniseg.study import prepare
from lib.segmenters.uniseg.tasks import Task

MARGIN = 1.2  # patches are cut so much larger than what is left of them after turning and stretching
POINTS = 2000  # voxels of a structure that patches are drawn around


@dataclass(frozen=True, eq=False)
class Patch:
    """What is learnt from; all patches of a batch are of one task.

    Attributes:
        image: float32 (C, D, H, W).
        label: uint8 (D, H, W), numbers of the task's structures.
        known: bool (K,), the structures that the study's label has at all; none where an older model is the teacher.
        task: index of the task.
    """

    image: np.ndarray
    label: np.ndarray
    known: np.ndarray
    task: int


@dataclass(frozen=True, eq=False)
class Material:
    """A study prepared for a task.

    Attributes:
        image: float16 (C, d, h, w), on disk.
        label: uint8 (d, h, w), on disk.
        points: for each structure some of its voxels, (N, 3).
        known: bool (K,), the structures that the study's label has at all.
        task: index of the task.
    """

    image: np.ndarray
    label: np.ndarray
    points: tuple[np.ndarray, ...]
    known: np.ndarray
    task: int

    @classmethod
    def of(cls, study: LabelledStudy, task: Task, index: int, folder: Path, labelled: bool = True) -> Material:
        """Prepare a study.

        Args:
            index: of the task in its network.
            folder: for two files without a name, which end with the process.
            labelled: False where only the image is wanted, because the label knows nothing of the task.

        Raises:
            ImageError: a study that is no volume, or whose spacing cannot be right.
        """
        volume, label = read_study(study)
        prepared = prepare(volume, task)
        numbers = np.zeros(int(label.max()) + 1, np.uint8)
        for number, name in enumerate(task.structures, start=1):
            if labelled and name in study.names and study.names[name] < len(numbers):
                numbers[study.names[name]] = number
        own = volume.turned(numbers[label], task.depth)[prepared.box]
        shape = tuple(prepared.image.shape[1:])
        small = _nearest(np.ascontiguousarray(own), shape)
        points = tuple(_some(np.argwhere(small == number)) for number in range(1, 1 + len(task.structures)))
        known = np.array([labelled and name in study.names for name in task.structures])
        return cls(
            _on_disk(folder, prepared.image.numpy().astype(np.float16)), _on_disk(folder, small), points, known, index
        )

    def draw(self, rng: np.random.Generator, patch: Sequence[int], shown: float) -> tuple[np.ndarray, np.ndarray]:
        """A block of `patch` and a margin with its label, around a structure with the probability `shown`.

        Zero beyond the volume; one that is smaller than a patch lies in its middle, as in the sliding window.

        Returns:
            float32 (C, d, h, w) and float32 (1, d, h, w).
        """
        block = [round(side * MARGIN) for side in patch]
        present = [own for own in self.points if len(own)]
        if present and rng.random() < shown:
            own = present[rng.integers(len(present))]
            centre = own[rng.integers(len(own))]
        else:
            centre = np.array([rng.integers(size) for size in self.label.shape])
        image = np.zeros((len(self.image), *block), np.float32)
        label = np.zeros((1, *block), np.float32)
        here, there = [slice(None)], [slice(None)]
        for place, size, side, inner in zip(centre, self.label.shape, block, patch, strict=True):
            beyond = (side - inner) // 2
            free = np.clip(place - side // 2, -beyond, size - side + beyond)
            corner = int(free) if size > inner else (size - side) // 2
            start, stop = max(0, corner), min(size, corner + side)
            here.append(slice(start, stop))
            there.append(slice(start - corner, stop - corner))
        image[tuple(there)] = self.image[tuple(here)]
        label[tuple(there)] = self.label[None][tuple(here)]
        return image, label


def augmentation(patch: Sequence[int]) -> Compose:
    """Small turns, stretches and other grey values; nothing is mirrored: left and right differ in a patient."""
    affine = RandAffined(
        ["image", "label"],
        prob=0.4,
        rotate_range=(0.26, 0.15, 0.15),
        scale_range=(0.2, 0.2, 0.2),
        spatial_size=tuple(patch),
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    grey = [
        RandGaussianNoised("image", prob=0.15, std=0.1),
        RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", factors=0.25, prob=0.3),
        RandShiftIntensityd("image", offsets=0.2, prob=0.3),
    ]
    return Compose([affine, *grey])


def _nearest(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    volume = torch.from_numpy(label)[None, None]
    return F.interpolate(volume, size=tuple(shape), mode="nearest-exact")[0, 0].numpy()


def _some(places: np.ndarray) -> np.ndarray:
    return places[np.linspace(0, len(places) - 1, min(POINTS, len(places))).astype(int)]


def _on_disk(folder: Path, array: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
        mapped[:] = array
    return mapped
