"""Episodes: one template image, a few query images, and one structure that all of them are about.

Real tasks are drawn over structures, then images: a data set of one structure counts once and one of eight eight times,
however many images they have. Beside them there are synthetic ones (`lib/learning/synthetic.py`), foreign bodies in the
images of several real subjects, and tasks made of one real image: a random region of it, to be found again in strongly
changed copies. Prompts are simulated in `lib/learning/simulated_prompts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from lib.imaging.transforms import normalise, resize_image
from lib.imaging.volumes import Stack
from lib.learning.augmentation import MILD, STRONG, augment
from lib.learning.datasets import Dataset
from lib.learning.synthetic import SyntheticTask, foreign_bodies, synthetic_task

STORED_SIZE = 160  # pixels; a margin over the network's size for rotation and zoom
SMALLEST = 12  # pixels of a structure in the augmented image, below which an episode teaches only noise
NEARBY = 0.1  # of a stack's length: slices that show the same part of two patients are seldom further apart
SAME_IMAGE = "copies"  # source of episodes that are changed copies of one image


@dataclass(frozen=True)
class Episode:
    """One task for one step.

    Attributes:
        images: float32 (1 + Q, S, S), normalised; the first is the template.
        masks: bool (1 + Q, S, S).
        source: data set or synthetic family.
    """

    images: np.ndarray
    masks: np.ndarray
    source: str


@dataclass(frozen=True)
class Mix:
    """Share of each kind of episode; the rest of 1 is real tasks across subjects.

    Attributes:
        synthetic: random anatomies.
        foreign: random structures put into the images of several subjects.
        regions: a region of one real image, found again in changed copies.
        same_image: a real structure, found again in changed copies of its image.
        absent: share of queries that do not show the structure, where a data set has such images.
        unions: share of real tasks that join several structures into one.
        unchanged: share of real tasks, copies among them, that stay the tasks that they are: not turned, mirrored,
            cut out or given other grey values. Pretraining wants none; what is tuned to one list gains by knowing
            which way up its patients lie.
    """

    synthetic: float = 0.4
    foreign: float = 0.1
    regions: float = 0.1
    same_image: float = 0.05
    absent: float = 0.06
    unions: float = 0.12
    unchanged: float = 0.0


@dataclass
class RealTasks:
    """One data set in memory, at `STORED_SIZE`.

    Attributes:
        images: float32 (n, R, R).
        labels: uint8 (n, R, R).
        subjects: subject of each image.
        places: of slices of a stack, where in it they lie, 0 to 1; partners are then taken from about the same place.
        showing: structure value to the indices of images that show at least twice `SMALLEST` pixels of it; only of
            structures that two subjects or more show.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    places: np.ndarray | None = None
    showing: dict[int, np.ndarray] = field(init=False)
    _regions: dict[int, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        least = SMALLEST * 2
        values = [int(v) for v in np.unique(self.labels) if v]
        showing = {v: np.flatnonzero((self.labels == v).sum(axis=(1, 2)) >= least) for v in values}
        self.showing = {v: where for v, where in showing.items() if len(set(self.subjects[where])) > 1}

    def regions(self, index: int) -> np.ndarray:
        """(R, R) superpixels of one image, made when first asked for."""
        if index not in self._regions:
            image = self.images[index]
            spread = image.std() + 1e-6
            scale = float(40 * 2 ** (index % 4))
            self._regions[index] = felzenszwalb(
                (image - image.mean()) / spread / 4, scale=scale, sigma=0.8, min_size=60
            )
        return self._regions[index]


def load_real_tasks(dataset: Dataset, as_one_class: bool = False, every_plane: bool = False) -> RealTasks:
    """Read a data set into memory; of volumes, the slices that show a label.

    They are cut as the product cuts them; with `every_plane` across each axis of the file, and the planes
    are tasks of their own: a slice of one is never the template of a slice of another.
    """
    planes: dict[int, tuple[list[np.ndarray], list[np.ndarray], list[str]]] = {}
    for file in dataset.files:
        image, label = dataset.read(file)
        array = image.array.astype(np.float32)
        axes = [0]
        if array.ndim == 2:
            array, label = array[None], label[None]
        elif every_plane:
            axes = [0, 1, 2]
        else:
            axes = [Stack.of(image).own_axis]
        for axis in axes:
            images, labels, subjects = planes.setdefault(axis if every_plane else 0, ([], [], []))
            across, marked = np.moveaxis(array, axis, 0), np.moveaxis(label, axis, 0)
            shown = np.flatnonzero(marked.any(axis=(1, 2))) if dataset.dims == 3 else np.array([0])
            for index in shown:
                images.append(normalise(resize_image(across[index], STORED_SIZE)))
                labels.append(_resize_labels(marked[index]))
                subjects.append(dataset.subjects[file])
    stacked = []
    for number, (_, labels, _) in enumerate(planes.values()):
        values = np.stack(labels).astype(np.uint8)
        values = (values > 0).astype(np.uint8) if as_one_class else values
        stacked.append(np.where(values > 0, values + number * max(dataset.labels), 0).astype(np.uint8))
    shown_images = np.stack([image for images, _, _ in planes.values() for image in images])
    owners = np.array([subject for _, _, subjects in planes.values() for subject in subjects])
    return RealTasks(dataset.name, shown_images, np.concatenate(stacked), owners)


class EpisodeSource:
    """Draws episodes; the same generator state gives the same episode.

    Args:
        real: data sets.
        size: side S of the episodes' images, in pixels.
        queries: Q, of each episode.
        mix: shares of the kinds of episodes.
        seed: of the synthetic tasks.
    """

    def __init__(self, real: Sequence[RealTasks], size: int, queries: int, mix: Mix = Mix(), seed: int = 0) -> None:
        self.real, self.size, self.queries, self.mix, self.seed = list(real), size, queries, mix, seed
        self._synthetic: dict[int, SyntheticTask] = {}
        self._tasks = [(tasks, value) for tasks in self.real for value in tasks.showing]
        self._own = {name for tasks in real for name in (tasks.name, f"{SAME_IMAGE}/{tasks.name}")}

    def draw(self, rng: np.random.Generator, step: int) -> Episode:
        """One episode with a template that shows its structure; `step` moves the window of synthetic tasks on."""
        while True:
            images, masks, source, strength = self._draw_raw(rng, step)
            # no number is drawn where none is wanted: pretraining's episodes stay the same for the same seed
            unchanged = self.mix.unchanged > 0 and source in self._own and rng.random() < self.mix.unchanged
            images, masks = augment(images, masks, rng, self.size, strength, new_task=not unchanged)
            if masks[0].sum() >= SMALLEST:
                return Episode(np.stack([normalise(image) for image in images]), masks, source)

    def _draw_raw(self, rng: np.random.Generator, step: int):  # type: ignore[no-untyped-def]
        kind = rng.random()
        if not self.real or kind < self.mix.synthetic:
            return (*self._draw_synthetic(rng, step), MILD)
        tasks = self.real[rng.integers(len(self.real))]
        kind -= self.mix.synthetic
        if kind < self.mix.foreign:
            return (*self._draw_foreign(tasks, rng), MILD)
        kind -= self.mix.foreign
        if kind < self.mix.regions:
            return (*self._draw_region(tasks, rng), STRONG)
        if kind < self.mix.regions + self.mix.same_image or not tasks.showing:
            return (*self._draw_same_image(tasks, rng), STRONG)
        return (*self._draw_real(*self._tasks[rng.integers(len(self._tasks))], rng), MILD)

    def _draw_synthetic(self, rng: np.random.Generator, step: int) -> tuple[np.ndarray, np.ndarray, str]:
        task = self._synthetic_task(step // 2 + int(rng.integers(SYNTHETIC_WINDOW)))
        values = np.unique(task.labels)
        chosen = [int(rng.choice(values[1:] if len(values) > 1 else values))]
        if len(values) > 3 and rng.random() < 0.15:
            chosen = [int(v) for v in rng.choice(values[1:], 2, replace=False)]
        picked = rng.permutation(len(task.images))
        picked = np.resize(picked, 1 + self.queries)
        return task.images[picked], np.isin(task.labels[picked], chosen), f"synthetic/{task.family}"

    def _synthetic_task(self, number: int) -> SyntheticTask:
        """Task `number` of an endless list; kept while the window of steps that use it passes."""
        if number not in self._synthetic:
            while len(self._synthetic) >= 2 * SYNTHETIC_WINDOW:
                del self._synthetic[min(self._synthetic)]
            grains = [tasks.images for tasks in self.real]
            self._synthetic[number] = synthetic_task(
                np.random.default_rng((self.seed, number)), STORED_SIZE, grains=grains
            )
        return self._synthetic[number]

    def _draw_foreign(self, tasks: RealTasks, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        images = tasks.images[rng.integers(len(tasks.images), size=1 + self.queries)]
        grains = self.real[rng.integers(len(self.real))].images
        task = foreign_bodies(images, grains, rng)
        return task.images, task.labels == 1, f"foreign/{tasks.name}"

    def _draw_region(self, tasks: RealTasks, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        index = int(rng.integers(len(tasks.images)))
        regions = tasks.regions(index)
        mask = regions == rng.choice(np.unique(regions))
        if rng.random() < 0.4:  # a region with a neighbour
            around = np.unique(regions[ndimage.binary_dilation(mask, iterations=2)])
            mask |= regions == rng.choice(around)
        return self._augmented(tasks, index, mask, "regions")

    def _draw_same_image(self, tasks: RealTasks, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        index = int(rng.integers(len(tasks.images)))
        values = np.unique(tasks.labels[index])
        return self._augmented(
            tasks, index, tasks.labels[index] == rng.choice(values[-max(1, len(values) - 1) :]), SAME_IMAGE
        )

    def _augmented(
        self, tasks: RealTasks, index: int, mask: np.ndarray, kind: str
    ) -> tuple[np.ndarray, np.ndarray, str]:
        count = 1 + self.queries
        return np.stack([tasks.images[index]] * count), np.stack([mask] * count), f"{kind}/{tasks.name}"

    def _draw_real(self, tasks: RealTasks, value: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        chosen = [value]
        if len(tasks.showing) > 1 and rng.random() < self.mix.unions:
            chosen.append(int(rng.choice(list(tasks.showing))))
        showing = tasks.showing[value]
        template = int(rng.choice(showing))
        others = showing[tasks.subjects[showing] != tasks.subjects[template]]
        near = None
        if tasks.places is not None:
            near = np.exp(-(((tasks.places[others] - tasks.places[template]) / NEARBY) ** 2)) + 1e-6
            near /= near.sum()
        queries = rng.choice(others, self.queries, replace=len(others) < self.queries, p=near)
        for place in np.flatnonzero(rng.random(self.queries) < self.mix.absent):
            absent = np.flatnonzero(tasks.subjects != tasks.subjects[template])
            queries[place] = rng.choice(absent)
        picked = np.array([template, *queries])
        return tasks.images[picked], np.isin(tasks.labels[picked], chosen), tasks.name


SYNTHETIC_WINDOW = 256  # tasks in use at a time


def _resize_labels(label: np.ndarray) -> np.ndarray:
    rows = ((np.arange(STORED_SIZE) + 0.5) * label.shape[0] / STORED_SIZE).astype(int)
    columns = ((np.arange(STORED_SIZE) + 0.5) * label.shape[1] / STORED_SIZE).astype(int)
    return label[np.ix_(rows, columns)]
