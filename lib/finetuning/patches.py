"""What a list-specific U-Net learns from: patches of slices of labelled studies, and how they are varied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined

from lib.imaging.transforms import resize_label
from lib.imaging.volumes import Stack
from lib.inference.templates import Template
from lib.segmenters.list_unet import PATCH, neighbours, slices_of

MARGIN = 1.25  # patches are cut so much larger than what is left of them after turning and stretching


@dataclass(frozen=True, eq=False)
class Patch:
    """What is learnt from.

    Attributes:
        image: float32 (3, P, P), a slice between its neighbours.
        label: uint8 (P, P), numbers of the structures.
        known: bool (K,), the structures that the study's label has at all.
    """

    image: np.ndarray
    label: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class Material:
    """Some slices of a study.

    Attributes:
        planes: float16 (M, h, w), these slices and their neighbours.
        around: (N, 3), where in `planes` each slice lies between its neighbours.
        labels: uint8 (N, h, w), numbers of the structures.
        pixels: (K, N), how many pixels of each structure a slice shows.
        known: bool (K,), the structures that the study's label has at all.
    """

    planes: np.ndarray
    around: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, study: Template, names: Sequence[str], most: int, whole: bool = True) -> Material:
        """At most `most` slices: those that show a structure, and some of the others.

        What half a study does not show may lie in the other half: it is not known.
        """
        assert study.label is not None
        stack = Stack.of(study.image)
        slices, truths = slices_of(stack), stack.slices_of(study.label)
        showing = truths.any(axis=(1, 2))
        shown, others = np.flatnonzero(showing), np.flatnonzero(~showing)
        fewer = most // 5
        shown = spread_evenly(shown, most - fewer)
        chosen = np.concatenate([shown, spread_evenly(others, min(len(shown), fewer))])
        kept, around = np.unique(neighbours(chosen, len(slices)), return_inverse=True)
        numbers = np.zeros(int(truths.max()) + 1, np.uint8)
        for number, name in enumerate(names, start=1):
            if name in study.names and study.names[name] < len(numbers):
                numbers[study.names[name]] = number
        labels = np.stack([resize_label(numbers[truths[index]], slices.shape[1:]) for index in chosen])
        return cls(
            slices[kept].astype(np.float16),
            around.reshape(len(chosen), -1),
            labels,
            np.stack([(labels == number).sum(axis=(1, 2)) for number in range(1, len(names) + 1)]),
            np.array([name in (study.names if whole else study.structures) for name in names]),
        )

    def image(self, index: int) -> np.ndarray:
        """(3, h, w): a slice between its neighbours."""
        return np.asarray(self.planes[self.around[index]])

    def draw(self, rng: np.random.Generator, shown: float) -> tuple[np.ndarray, np.ndarray]:
        """A square (3, M, M) and its label (1, M, M), around a structure with the probability `shown`; zero beyond."""
        present = np.flatnonzero(self.pixels.any(axis=1))
        if len(present) and rng.random() < shown:
            structure = rng.choice(present)
            index = rng.choice(len(self.labels), p=self.pixels[structure] / self.pixels[structure].sum())
            places = np.argwhere(self.labels[index] == structure + 1)
            centre = places[rng.integers(len(places))]
        else:
            index, *centre = (rng.integers(n) for n in self.labels.shape)
        side = round(PATCH * MARGIN)
        # The image's border is seen as often as what lies inside; an image that is smaller than a patch lies in its
        # middle, as in `sliding_window_inference`
        beyond = (side - PATCH) // 2
        corner = [
            int(np.clip(c - side // 2, -beyond, n - side + beyond)) if n > PATCH else (n - side) // 2
            for c, n in zip(centre, self.labels.shape[1:], strict=True)
        ]
        both = np.concatenate([self.image(index), self.labels[index][None]]).astype(np.float32)
        square = np.zeros((len(both), side, side), np.float32)
        (top, left), (height, width) = corner, both.shape[1:]
        rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
        square[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = both[
            :, rows, columns
        ]
        return square[:-1], square[-1:]


def augmentation() -> Compose:
    """Patches stay as they lie, apart from small turns: left and right are not the same in a patient."""
    affine = RandAffined(
        ["image", "label"],
        prob=0.7,
        rotate_range=0.26,
        scale_range=(0.25, 0.25),
        spatial_size=(PATCH, PATCH),
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    grey = [
        RandGaussianNoised("image", prob=0.2, std=0.1),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", factors=0.2, prob=0.3),
        RandShiftIntensityd("image", offsets=0.2, prob=0.3),
    ]
    return Compose([affine, *grey])


def spread_evenly(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly."""
    places = np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))
    return np.asarray(indices[places])
