"""A course of training on a few labelled studies: phases, studies held out, and going on after a kill.

A course is one or more phases, all from the same first weights. With few studies they take turns at being held out
(cross-validation), which tells whether learning from this list helps at all; if it does, a last phase learns from all
of them. With many, one phase holds some out, and its result is what is published.

What is learnt, and what is asked, is the subclass's (`lib.finetuning.oneprompt`, `lib.finetuning.list_unet_training`).
The loop over epochs and steps is the caller's (MONAI Label's trainer, or `run`): `begin_epoch`, `step`, `end_epoch`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lib.finetuning.examination import Examined
from lib.imaging.images import Image, read_image, read_label
from lib.imaging.volumes import Stack
from lib.inference.templates import Template, TemplateError
from lib.learning.optimizers import make_optimizer
from lib.learning.training import StepResult, TrainingConfig, learning_rate_at

HELD_OUT = "held-out studies"

Window = tuple[slice, ...]


@dataclass(frozen=True)
class LabelledStudy:
    """A study with its final label.

    Attributes:
        id, image, label: name and files.
        names: structure to its value in the label.
        checksum: changes when the files do.
        drawn: a person drew, prompted or corrected it; False for an automatic mask that was accepted, which is no truth
            to judge by.
        half: 0 or 1 for the part on either side of where half of the label lies; None for all of it.
    """

    id: str
    image: Path
    label: Path
    names: Mapping[str, int]
    checksum: str = ""
    drawn: bool = True
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


@dataclass(frozen=True)
class Phase:
    """One training from the first weights: places of the studies learnt from and of those asked about after it."""

    name: str
    learnt: tuple[int, ...]
    asked: tuple[int, ...] = ()


class Settings(Protocol):
    """The numbers that every course has; `lib.finetuning.oneprompt.FineTuning` explains them."""

    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def folds(self) -> int: ...
    @property
    def few(self) -> int: ...
    @property
    def held_out(self) -> float: ...
    @property
    def longer(self) -> int: ...


def plan(drawn: Sequence[bool], settings: Settings) -> tuple[Phase, ...]:
    """The phases for some studies.

    Args:
        drawn: for each study, whether a person drew its label: while there are such, no others are asked about, and
            they alone count as few or many.

    Raises:
        ValueError: there is none.
    """
    count = len(drawn)
    if count < 1:
        raise ValueError("training needs at least one study with a final label: save one first")
    if count == 1:
        return (Phase("the one study", (0,)),)
    fit = _fit(drawn)
    if len(fit) > settings.few:
        return (_phase("most studies", count, fit[:: round(1 / settings.held_out)], fit),)
    everyone = sorted(range(count), key=lambda n: n not in fit)
    folds = min(settings.folds, count)
    parts = [everyone[fold::folds] for fold in range(folds)]
    turns = [_phase(f"fold {number} of {folds}", count, part, fit) for number, part in enumerate(parts, start=1)]
    return (*(turn for turn in turns if turn.asked), Phase("all studies", tuple(range(count))))


def phases_of(studies: Sequence[LabelledStudy], settings: Settings) -> tuple[Phase, ...]:
    """`plan` for some studies; two halves of one and the whole of it take turns and come last.

    Raises:
        ValueError: there is none.
    """
    if studies and studies[0].half is not None:
        return Phase("first half", (0,), (1,)), Phase("second half", (1,), (0,)), Phase("the whole study", (2,))
    return plan([study.drawn for study in studies], settings)


def phase_epochs(drawn: Sequence[bool], settings: Settings) -> int:
    """Epochs of each phase of `plan`."""
    return settings.epochs * (settings.longer if len(_fit(drawn)) > settings.few else 1)


def _fit(drawn: Sequence[bool]) -> list[int]:
    """Places of the studies that may be asked about."""
    return [place for place, own in enumerate(drawn) if own] or list(range(len(drawn)))


def _phase(name: str, count: int, apart: Sequence[int], fit: Sequence[int]) -> Phase:
    """Learns from all studies but those set apart; asks about those of them that are fit for it."""
    return Phase(name, tuple(n for n in range(count) if n not in apart), tuple(n for n in sorted(apart) if n in fit))


class Course(ABC):
    """One training under way.

    Args:
        studies: labelled studies.
        settings: its numbers.
        seed: of everything that is drawn.
        share: (number of this process, number of processes) where several learn together.
        phases: None for those of `phases_of`.

    Attributes:
        epoch: finished epochs, of all phases.
        results: scores on the held-out studies: what was served before, and each candidate.
        curve: one entry for each finished epoch.
        learner: a module whose forward pass is a whole training step, (items, config, rng) to (loss, StepResult), so
            that PyTorch's distributed wrapper sees it.
    """

    kind: ClassVar[type]  # of its items: a dataclass of arrays and strings, all items of one shape
    learner: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        studies: Sequence[LabelledStudy],
        settings: Settings,
        seed: int,
        share: tuple[int, int],
        phases: Sequence[Phase] | None,
    ) -> None:
        self.studies, self.seed, self.share = list(studies), seed, share
        self.phases = tuple(phases or phases_of(self.studies, settings))
        self.phase_epochs = phase_epochs([study.drawn for study in self.studies], settings)
        self.epochs = self.phase_epochs * len(self.phases)
        self.steps, self.batch = settings.steps, settings.batch
        self.names = sorted({name for study in self.studies for name in study.names})
        self.epoch = 0
        self.results: list[Examined] = []
        self.curve: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._drawn = 0
        self._prepared = False

    # What a subclass says

    @property
    @abstractmethod
    def identity(self) -> Sequence[Any]:
        """JSON-able: what the result depends on beside studies, seed and share."""

    @abstractmethod
    def verdict(self) -> tuple[bool, str]:
        """Whether what was learnt is better than what is served, and why."""

    @abstractmethod
    def _prepare(self) -> None:
        """Get ready for the phase that begins, or goes on."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator, number: int) -> Any:
        """An item to learn from, of `kind`."""

    @abstractmethod
    def _answers(self) -> list[float]:
        """Dice of quick questions about the phase's studies."""

    @abstractmethod
    def _examine(self) -> list[Examined]:
        """What was served before and each candidate, on the phase's held-out studies as in serving."""

    # What the loop calls

    @property
    def phase(self) -> Phase:
        """The phase of the epoch that is under way or next."""
        return self.phases[min(self.epoch // self.phase_epochs, len(self.phases) - 1)]

    @property
    def examined_on(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT

    @property
    def before(self) -> Examined:
        """What was served scored on the held-out studies."""
        return self.results[0] if self.results else Examined()

    @property
    def chosen(self) -> int:
        """Which of the candidates would be published, from 1."""
        return 1

    @property
    def after(self) -> Examined:
        """What the chosen candidate scored there."""
        return self.results[self.chosen] if self.results else Examined()

    def begin_epoch(self) -> None:
        """Get ready for the next epoch; the first one of a phase begins from the first weights."""
        if self.epoch % self.phase_epochs == 0:
            self.learner.load_state_dict(self._first)
            self.optimizer.state.clear()
            self._prepared = False
        if not self._prepared:
            self._prepare()
            self._prepared = True
        self._drawn, self._losses = 0, []

    def draw(self) -> Any:
        """The next item of the epoch."""
        number = self._drawn + 1_000_000 * self.epoch
        self._drawn += 1
        return self._draw(np.random.default_rng((self.seed, self.share[0], number)), number)

    def step(self, module: nn.Module, items: Sequence[Any]) -> StepResult:
        """One optimiser step; `module` is `learner`, or what wraps it."""
        done = self.epoch % self.phase_epochs * self.steps + len(self._losses)
        config = self._training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(done, self.phase_epochs * self.steps, config, cooldown=0.6)
        self.learner.train()
        self.optimizer.zero_grad(set_to_none=True)
        result: StepResult
        loss, result = module(items, config, np.random.default_rng((self.seed, self.share[0], self.epoch, done)))
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.learner.parameters() if p.requires_grad], config.clip)
        self.optimizer.step()
        self._losses.append(float(loss.detach()))
        return result

    def end_epoch(self) -> float:
        """Ask the questions of this phase; after its last epoch also as the product would. Returns the mean Dice."""
        phase, dice = self.phase, self._answers()
        loss = float(np.mean(self._losses)) if self._losses else 0.0
        mean = float(np.mean(dice)) if dice else 0.0
        told = {"phase": phase.name, "epoch": self.epoch + 1, "loss": round(loss, 4), "dice": round(mean, 4)}
        last = (self.epoch + 1) % self.phase_epochs == 0
        if last and self.share[0] == 0 and (phase.asked or len(self.phases) == 1):
            found = self._examine()
            earlier = self.results or [Examined()] * len(found)
            self.results = [one.joined(other) for one, other in zip(earlier, found, strict=True)]
        self.curve.append(told)
        self.epoch += 1
        return mean

    @property
    def finished(self) -> bool:
        """Nothing is left to do: all phases are through, or cross-validation said that it does not help."""
        examined = self.epoch >= self.phase_epochs * max(1, len(self.phases) - 1)
        return self.epoch >= self.epochs or (len(self.phases) > 1 and examined and not self.verdict()[0])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able values from which `restore` goes on."""
        tensors = {f"weights.{name}": value for name, value in self.learner.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        results = [dataclasses.asdict(found) for found in self.results]
        return tensors, {"epoch": self.epoch, "curve": self.curve, "results": results}

    def restore(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Go on from a `state` of a course with the same first weights, studies, settings and seed."""
        results = [
            Examined({name: tuple(v) for name, v in found["dice"].items()}, tuple(found["clicks"]))
            for found in told["results"]
        ]
        epoch, curve = int(told["epoch"]), list(told["curve"])
        weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name[0] == "w"}
        self.learner.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.epoch, self.curve, self.results = epoch, curve, results

    # What a subclass uses

    def _learn_with(self, learner: nn.Module, config: TrainingConfig) -> None:
        """Take a module that is ready to learn, and the numbers of a step; its weights are where phases begin."""
        self.learner, self._training = learner, config
        self.optimizer = make_optimizer(learner, config.optimizer, config.learning_rate, config.weight_decay)
        self._first = {name: value.clone() for name, value in learner.state_dict().items()}


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


AnyCourse = TypeVar("AnyCourse", bound=Course)


def run(course: AnyCourse, report: Callable[[AnyCourse], None] = lambda course: None) -> AnyCourse:
    """Train in this process until nothing is left to do."""
    while not course.finished:
        course.begin_epoch()
        for _ in range(course.steps):
            course.step(course.learner, [course.draw() for _ in range(course.batch)])
        course.end_epoch()
        report(course)
    return course
