"""Labelled images of one data set, checked once at the start so that a bad file is named before hours of work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lib.imaging.images import Image, ImageError
from lib.imaging.prompts import PromptType
from lib.imaging.volumes import Stack
from lib.inference.templates import Template
from lib.learning.datasets import Dataset, DatasetError
from scripts.measure.evaluation.volume_prompts import simulate_on

SMALLEST = 12  # voxels of a structure, below which neither a person nor a metric can say much


@dataclass(frozen=True, eq=False)
class Case:
    """One labelled image.

    Attributes:
        id: DATASET/FILE.
        subject: who it shows; a template never serves its own subject.
        image, label: of one shape, (I, J) or (I, J, K).
    """

    id: str
    subject: str
    image: Image
    label: np.ndarray

    @cached_property
    def stack(self) -> Stack:
        """The image's slices in canonical orientation."""
        return Stack.of(self.image)

    @cached_property
    def axis(self) -> int:
        """The array axis along which a volume's slices are looked at: the one that the product cuts it along."""
        return self.stack.own_axis

    def mask(self, value: int) -> np.ndarray:
        """Bool mask of one structure in the image's shape."""
        return self.label == value

    def template(self, names: Mapping[int, str], kind: PromptType, seed: int) -> Template:
        """This image as a template with a prompt of one kind on each structure that it shows.

        The same seed gives the same prompt, whoever asks and in whatever order.
        """
        if kind is PromptType.SEGLAB:
            return Template(self.id, self.image, self.label, {name: value for value, name in names.items()})
        prompts = {}
        for value, name in names.items():
            mask = self.mask(value)
            if mask.any():
                rng = np.random.default_rng(seed_of(seed, self.id, value, kind.value))
                prompts[name] = simulate_on(mask, kind, rng, self.axis)
        return Template(self.id, self.image, None, {}, prompts)


@dataclass(eq=False)
class CaseFolder:
    """The usable files of a data set.

    Attributes:
        dataset: the folder.
        showing: file to the structures of which it shows `SMALLEST` voxels or more.
        refused: file to the reason why it cannot be used.
    """

    dataset: Dataset
    showing: dict[str, frozenset[int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _digest: str = ""
    _loaded: dict[str, Case] = field(default_factory=dict)

    @classmethod
    def open(cls, dataset: Dataset) -> CaseFolder:
        """Read every file once; what cannot be read, or is no pair of one shape, is noted and left out."""
        folder, digest = cls(dataset), hashlib.sha256(repr(sorted(dataset.labels.items())).encode())
        for file in dataset.files:
            try:
                image, label = dataset.read(file)
            except (DatasetError, ImageError) as error:
                folder.refused[file] = str(error)
                continue
            values, counts = np.unique(label, return_counts=True)
            shown = {int(v) for v, n in zip(values, counts, strict=True) if n >= SMALLEST}
            folder.showing[file] = frozenset(shown & set(dataset.labels))
            digest.update(f"{file} {dataset.subjects[file]} {image.checksum}".encode())
            digest.update(label.tobytes())
        folder._digest = digest.hexdigest()[:16]
        return folder

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def fingerprint(self) -> str:
        """Changes when any image, label, subject or label name does."""
        return self._digest

    def case(self, file: str) -> Case:
        """One file, kept in memory until `forget`."""
        if file not in self._loaded:
            image, label = self.dataset.read(file)
            self._loaded[file] = Case(f"{self.name}/{file}", self.dataset.subjects[file], image, label)
        return self._loaded[file]

    def forget(self) -> None:
        """Drop what is in memory."""
        self._loaded.clear()


def seed_of(*parts: object) -> int:
    """A seed that depends on nothing but its parts: not on order, process or platform."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
