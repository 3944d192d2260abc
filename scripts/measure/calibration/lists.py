"""Study lists whose truth is known: masks are made as the server makes them, and each is kept with its true Dice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import write_atomically
from lib.imaging.images import Image
from lib.inference.templates import Template
from lib.learning.datasets import Dataset
from lib.learning.synthetic import synthetic_task
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.scores import dice_by_label

SMALLEST = 12  # voxels of a structure in a template
MOST_STRUCTURES = 4
PLANE = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Record:
    """One mask of one structure.

    Attributes:
        list: data set or synthetic family.
        group: the template(s) it was made from; records of one group are one study list.
        study: whose mask it is.
        structure: name.
        features: see `lib.quality.features`.
        dice: the true Dice, 0 to 1.
    """

    list: str
    group: str
    study: str
    structure: str
    features: Mapping[str, float]
    dice: float


@dataclass(frozen=True, eq=False)
class LabelledStudy:
    """An image with its truth."""

    id: str
    subject: str
    image: Image
    label: np.ndarray


@dataclass(frozen=True, eq=False)
class StudyList:
    """Studies of one kind, some of which serve as templates.

    Attributes:
        name: data set or synthetic family.
        names: structure to its value.
        studies: all of them.
        groups: indices of the templates, for each list that is made of them.
        most: studies segmented with each group, drawn by `seed`.
    """

    name: str
    names: Mapping[str, int]
    studies: Sequence[LabelledStudy]
    groups: Sequence[Sequence[int]]
    most: int
    seed: int = 0


def of_dataset(
    dataset: Dataset, as_one: bool, counts: Sequence[int], groups: int, most: int, seed: int = 0
) -> StudyList:
    """A data set as a study list.

    Args:
        as_one: all structures count as one.
        counts: numbers of templates, taken in turn.
        groups: how many lists to make, each with its own templates.
        most: studies segmented in each.
    """
    rng = np.random.default_rng([seed, *dataset.name.encode()])
    studies, showing = [], []
    for file in dataset.files:
        image, label = dataset.read(file)
        label = (label > 0).astype(np.uint8) if as_one else label
        studies.append(LabelledStudy(file, dataset.subjects[file], image, label))
        showing.append({value for value in np.unique(label) if value and (label == value).sum() >= SMALLEST})
    names = {"structure": 1} if as_one else {name: value for value, name in dataset.labels.items()}
    worth = sorted((place for place in range(len(studies)) if showing[place]), key=lambda _: rng.random())
    worth.sort(key=lambda place: -len(showing[place]))  # stable: drawn anew among those that show as much
    several = [place for place in worth if len(showing[place]) == len(showing[worth[0]])]
    pool = several if len(several) >= 2 * groups else worth
    chosen = [
        [int(p) for p in rng.choice(pool, min(counts[n % len(counts)], len(pool)), replace=False)]
        for n in range(groups)
    ]
    return StudyList(dataset.name, names, studies, chosen, most, seed)


def synthetic_lists(count: int, queries: int, seed: int, size: int = 160) -> Iterator[StudyList]:
    """Lists of tasks that exist nowhere; every third one has several templates."""
    for number in range(count):
        rng = np.random.default_rng([seed, number, 7])
        templates = 3 if number % 3 == 2 else 1
        task = synthetic_task(rng, size, templates + queries)
        studies = [
            LabelledStudy(f"{number}-{n}", str(n), Image(image, PLANE), label)
            for n, (image, label) in enumerate(zip(task.images, task.labels, strict=True))
        ]
        shown = [int(v) for v in np.unique(task.labels[0]) if v and (task.labels[0] == v).sum() >= 4 * SMALLEST]
        values = rng.permutation(shown)[:MOST_STRUCTURES]
        names = {f"structure {value}": int(value) for value in values}
        yield StudyList(f"synthetic {task.family}", names, studies, [range(templates)], queries, seed)


def collect(segmenter: SliceSegmenter, studies: StudyList) -> Iterator[Record]:
    """Segment and score; a structure that a study does not have counts where something was found all the same."""
    for number, group in enumerate(studies.groups):
        templates = []
        for place in group:
            study = studies.studies[place]
            kept = {name: v for name, v in studies.names.items() if (study.label == v).sum() >= SMALLEST}
            if kept:
                templates.append(Template(study.id, study.image, study.label, kept))
        shown = [name for name in studies.names if any(name in template.structures for template in templates)]
        if not shown:
            continue
        labels = {name: place + 1 for place, name in enumerate(shown)}
        own = {studies.studies[place].subject for place in group}
        rng = np.random.default_rng([studies.seed, number])
        others = [study for study in studies.studies if study.subject not in own]
        label = f"{studies.name} {number}: {','.join(template.id for template in templates)}"
        for place in sorted(rng.permutation(len(others))[: studies.most]):
            study = others[place]
            prediction = segmenter.segment(study.image, templates, labels)
            truth = np.zeros(study.label.shape, np.uint16)
            for name, value in labels.items():
                truth[study.label == studies.names[name]] = value
            for name, dice in zip(shown, dice_by_label(prediction.mask, truth, len(shown)), strict=True):
                if dice is not None:
                    features = prediction.provenance["evidence"][name]
                    yield Record(studies.name, label, study.id, name, features, dice)


class Collection:
    """Records in a JSON file; what is there is not made again.

    Args:
        path: the file.
        key: what the records depend on; another key begins anew.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path, self._key = path, json.loads(json.dumps(dict(key)))  # as it comes back from the file
        self._lists: dict[str, list[dict[str, Any]]] = {}
        if path.is_file():
            kept = json.loads(path.read_text().replace('"evidence": {', '"features": {'))  # as it was called before
            if kept["key"] == self._key:
                self._lists = kept["lists"]

    def take(self, name: str, segmenter: SliceSegmenter, studies: Sequence[StudyList] | Iterator[StudyList]) -> None:
        """Make the records called `name`, unless they are there."""
        if name in self._lists:
            return
        began = time.monotonic()
        records = [asdict(record) for one in studies for record in collect(segmenter, one)]
        self._lists[name] = records
        write_atomically(self.path, json.dumps({"key": self._key, "lists": self._lists}).encode())
        dices = [record["dice"] for record in records] or [0.0]
        print(
            f"{name}: {len(records)} masks, mean Dice {np.mean(dices):.2f}, {time.monotonic() - began:.0f} s",
            flush=True,
        )

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [Record(**record) for records in self._lists.values() for record in records]
