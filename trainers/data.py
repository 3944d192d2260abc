"""What the trainer learns from: the final labels of a study list as slices, episodes and a fixed examination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lib.augmentation import MILD, augment
from lib.episodes import SMALLEST, STORED_SIZE, Episode, EpisodeSource, Mix, RealTasks
from lib.images import read_image, read_label
from lib.transforms import normalise, resize_image
from lib.volumes import Stack

# A study list is one small task: most episodes are about its own structures, the rest guards what was learnt before.
MIX = Mix(synthetic=0.2, regions=0.05, same_image=0.25, absent=0.06, unions=0.0)
# One study has no partner to learn from: its own slices in changed copies.
ALONE = Mix(synthetic=0.2, regions=0.1, same_image=0.7, absent=0.0, unions=0.0)
QUESTIONS = 8  # slices per study and structure in the examination


@dataclass(frozen=True)
class LabelledStudy:
    """A final label in the datastore: files, and {structure: value in the label}."""

    id: str
    image: Path
    label: Path
    names: Mapping[str, int]


def slices_of(study: LabelledStudy, indices: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The slices of a study that show a structure: images float32 and labels uint8, both (n, R, R), R = `STORED_SIZE`.

    Label values become `indices`, the same for all studies.
    """
    image = read_image(study.image)
    label = read_label(study.label, image)
    common = np.zeros(label.shape, np.uint8)
    for name, value in study.names.items():
        common[label == value] = indices[name]
    stack = Stack.of(image)
    planes, labels = stack.slices_of(image.array), stack.slices_of(common)
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    small = [normalise(resize_image(planes[index].astype(np.float32), STORED_SIZE)) for index in shown]
    return np.stack(small), np.stack([_shrunk(labels[index]) for index in shown])


def tasks_of(studies: Sequence[LabelledStudy], indices: Mapping[str, int]) -> RealTasks:
    """All slices of the studies as one set of tasks; each study is a subject."""
    parts = [slices_of(study, indices) for study in studies]
    subjects = np.concatenate([np.full(len(images), number) for number, (images, _) in enumerate(parts)])
    return RealTasks("studies", np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), subjects)


class Lessons(Dataset):
    """Episodes for training: each item is drawn anew from (seed, epoch, index), so a run can be repeated."""

    def __init__(self, tasks: RealTasks, size: int, count: int, queries: int = 3, seed: int = 0) -> None:
        mix = MIX if tasks.showing else ALONE
        self._source = EpisodeSource([tasks], size, queries, mix, seed)
        self._count, self._seed, self._drawn = count, seed, 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._drawn += 1
        rng = np.random.default_rng((self._seed, self._drawn, index))
        episode = self._source.draw(rng, self._drawn)
        return {"images": episode.images, "masks": episode.masks, "source": episode.source}


class Examination(Dataset):
    """Fixed episodes that show how well one template answers for studies that were not learnt from.

    With a single study its slices are asked for again in changed copies, and `on_copies` says so.
    """

    def __init__(self, learnt: RealTasks, held_out: RealTasks | None, size: int) -> None:
        self.on_copies = held_out is None
        asked = learnt if held_out is None else held_out
        self._episodes = [
            episode
            for value in np.unique(asked.labels)[1:].tolist()
            for question in _spread(np.flatnonzero((asked.labels == value).any(axis=(1, 2))), QUESTIONS)
            if (episode := _question(learnt, asked, int(question), value, size, self.on_copies)) is not None
        ]

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        episode = self._episodes[index]
        return {"images": episode.images, "masks": episode.masks}


def _question(
    learnt: RealTasks, asked: RealTasks, question: int, value: int, size: int, copied: bool
) -> Episode | None:
    """Template: the learnt slice that shows the structure in an area most like the asked one's."""
    areas = (learnt.labels == value).sum(axis=(1, 2)).astype(float)
    area = float((asked.labels[question] == value).sum())
    if not areas.any():
        return None
    template = question if copied else int(np.argmin(np.where(areas > 0, np.abs(areas - area), np.inf)))
    images = np.stack([learnt.images[template], asked.images[question]])
    masks = np.stack([learnt.labels[template] == value, asked.labels[question] == value])
    if copied:
        images, masks = augment(images, masks, np.random.default_rng((question, value)), size, MILD)
    else:
        images = np.stack([resize_image(image, size) for image in images])
        masks = np.stack([resize_image(mask.astype(np.float32), size) > 0.5 for mask in masks])
    if min(mask.sum() for mask in masks) < SMALLEST:
        return None
    return Episode(np.stack([normalise(image) for image in images]), masks, "examination")


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the indices, evenly spread."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))]


def _shrunk(label: np.ndarray) -> np.ndarray:
    """A label map (I, J) to (R, R) by its nearest pixels."""
    rows, columns = (((np.arange(STORED_SIZE) + 0.5) * n / STORED_SIZE).astype(int) for n in label.shape)
    return label[np.ix_(rows, columns)]
