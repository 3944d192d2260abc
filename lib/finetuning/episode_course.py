"""What the courses of the networks that are shown templates have in common: they learn from episodes of the list's own
studies, from the weights that are served, and are asked from templates of the studies that were learnt from.

A single study can only be asked about changed copies of itself, and the verdict says so.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from lib.finetuning.course import HELD_OUT, Course
from lib.finetuning.examination import Scores, answer, questions
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase
from lib.finetuning.tuning import FineTuning
from lib.imaging.transforms import normalise, resize_image, resize_label
from lib.imaging.volumes import Stack, thick_axis
from lib.inference.templates import Template
from lib.learning.episodes import STORED_SIZE, Episode, EpisodeSource, RealTasks
from lib.networks import OnePrompt
from lib.networks.checkpoints import weights_hash
from lib.networks.promptseg import PromptSeg

VIEWS = "changed copies of the one study"
Network = TypeVar("Network", OnePrompt, PromptSeg)


def slices_of(study: Template, indices: Mapping[str, int], most: int) -> dict[int, RealTasks]:
    """{plane: the study's slices that show a structure}, in the planes that the product cuts it in.

    Label values become `indices`; the subject is 0.
    """
    assert study.label is not None
    common = np.zeros(study.label.shape, np.uint8)
    for name, value in study.names.items():
        common[study.label == value] = indices[name]
    main = Stack.of(study.image)
    alike = thick_axis(main.spacing) is None and min(main.array.shape) > 1
    stacks = [Stack.of(study.image, plane=plane) for plane in range(3)] if alike else [main]
    by_axis = {}
    for stack in stacks:
        planes, labels = stack.slices_of(study.image.array), stack.slices_of(common)
        shown = np.flatnonzero(labels.any(axis=(1, 2)))
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(most, len(shown))).round().astype(int))]
        images = [normalise(resize_image(planes[index].astype(np.float32), STORED_SIZE)) for index in shown]
        places = shown / max(1, len(planes) - 1)
        smaller = np.stack([resize_label(labels[index], (STORED_SIZE, STORED_SIZE)) for index in shown])
        by_axis[stack.axis] = RealTasks("studies", np.stack(images), smaller, np.zeros(len(shown), int), places)
    return by_axis


def joined(parts: Sequence[RealTasks]) -> RealTasks:
    """Slices of several studies as one set of tasks; each study is a subject."""
    subjects = np.concatenate([np.full(len(part.images), number) for number, part in enumerate(parts)])
    places = np.concatenate([part.places for part in parts if part.places is not None])
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return RealTasks("studies", images, labels, subjects, places)


class EpisodeCourse(Course, Generic[Network]):
    """One fine-tuning under way.

    Args:
        parent: network that is served now; it is not changed.
        studies: labelled studies.
        settings: every number.
        device: torch device.
        seed, share, phases: see `Course`.
    """

    kind = Episode

    def __init__(
        self,
        parent: Network,
        studies: Sequence[LabelledStudy],
        settings: FineTuning,
        device: str = "cpu",
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        phases: Sequence[Phase] | None = None,
    ) -> None:
        super().__init__(studies, settings, seed, share, phases)
        self.settings, self.device = settings, device
        self.parent: Network = parent.eval().to(device)
        torch.manual_seed(seed)
        fresh = type(parent)(parent.config)
        fresh.load_state_dict(parent.state_dict())
        self._learn_with(self._learner(fresh).to(device), settings.training(self.phase_epochs * settings.steps))
        self._indices = {name: number for number, name in enumerate(self.names, start=1)}
        most = max(4, min(40, settings.most_slices // len(self.studies)))
        self._slices = [slices_of(study.read(), self._indices, most) for study in self.studies]
        self._source: EpisodeSource | None = None
        self._questions: list[tuple[int, Episode]] = []

    @property
    @abstractmethod
    def network(self) -> Network:
        """The candidate as it is now, with plain weights."""

    @abstractmethod
    def _learner(self, fresh: Network) -> nn.Module:
        """A copy of the parent as `Course.learner` is to be."""

    @abstractmethod
    def _scores(self, network: Network) -> Scores:
        """What a network scores on what is asked in this phase."""

    @property
    def question_source(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT if len(self.studies) > 1 else VIEWS

    @property
    def identity(self) -> Sequence[Any]:
        """The parent and the settings."""
        return [weights_hash(self.parent), dataclasses.asdict(self.settings)]

    def _prepare(self) -> None:
        settings, size = self.settings, self.parent.config.image_size
        learnt, held_out = self._tasks(self.phase.training), self._tasks(self.phase.held_out)
        alone = not any(tasks.showing for tasks in learnt.values())
        mix = settings.mix_alone if alone else settings.mix
        most = max(1, min(8, settings.most_questions // (len(learnt) * len(self._indices))))
        self._source = EpisodeSource(list(learnt.values()), size, settings.queries, mix, self.seed)
        self._questions = [
            question
            for plane, tasks in learnt.items()
            if not held_out or plane in held_out
            for question in questions(tasks, held_out.get(plane), size, most)
        ]

    def _draw(self, rng: np.random.Generator, number: int) -> Episode:
        assert self._source is not None
        return self._source.draw(rng, number)

    def _tasks(self, places: Sequence[int]) -> dict[int, RealTasks]:
        planes = sorted({plane for place in places for plane in self._slices[place]})
        return {
            plane: joined([self._slices[place][plane] for place in places if plane in self._slices[place]])
            for plane in planes
        }

    def _answers(self) -> list[float]:
        return self._answered_by(self.network)

    def _answered_by(self, network: Network) -> list[float]:
        episodes = [episode for _, episode in self._questions]
        batches = [episodes[start : start + 8] for start in range(0, len(episodes), 8)]
        return [float(dice) for batch in batches for dice in answer(network, batch)]

    def _examine(self) -> list[Scores]:
        return [self._scores(self.parent), self._scores(self.network)]
