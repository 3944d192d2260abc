"""A course of training on a few labelled studies: phases, studies held out, and going on after a kill.

A course is one or more phases (`lib.finetuning.phases`), all from the same first weights.

What is learnt, and what is asked, is the subclass's (`lib.finetuning.episode_course`,
`lib.finetuning.list_unet_training`).
The loop over epochs and steps is the caller's (MONAI Label's trainer, or `run`): `begin_epoch`, `step`, `end_epoch`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase, Settings, phase_epochs, phases_of
from lib.learning.optimizers import make_optimizer
from lib.learning.training import StepResult, TrainingConfig, learning_rate_at

HELD_OUT = "held-out studies"


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
        self.phase_epochs = phase_epochs([study.manually_annotated for study in self.studies], settings)
        self.epochs = self.phase_epochs * len(self.phases)
        self.steps, self.batch = settings.steps, settings.batch
        self.names = sorted({name for study in self.studies for name in study.names})
        self.epoch = 0
        self.results: list[Scores] = []
        self.curve: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._count = 0
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
    def _examine(self) -> list[Scores]:
        """What was served before and each candidate, on the phase's held-out studies as in serving."""

    # What the loop calls

    @property
    def phase(self) -> Phase:
        """The phase of the epoch that is under way or next."""
        return self.phases[min(self.epoch // self.phase_epochs, len(self.phases) - 1)]

    @property
    def question_source(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT

    @property
    def before(self) -> Scores:
        """What was served scored on the held-out studies."""
        return self.results[0] if self.results else Scores()

    @property
    def chosen(self) -> int:
        """Which of the candidates would be published, from 1."""
        return 1

    @property
    def after(self) -> Scores:
        """What the chosen candidate scored there."""
        return self.results[self.chosen] if self.results else Scores()

    def begin_epoch(self) -> None:
        """Get ready for the next epoch; the first one of a phase begins from the first weights."""
        if self.epoch % self.phase_epochs == 0:
            self.learner.load_state_dict(self._first)
            self.optimizer.state.clear()
            self._prepared = False
        if not self._prepared:
            self._prepare()
            self._prepared = True
        self._count, self._losses = 0, []

    def draw(self) -> Any:
        """The next item of the epoch."""
        number = self._count + 1_000_000 * self.epoch
        self._count += 1
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
        entry = {"phase": phase.name, "epoch": self.epoch + 1, "loss": round(loss, 4), "dice": round(mean, 4)}
        last = (self.epoch + 1) % self.phase_epochs == 0
        if last and self.share[0] == 0 and (phase.held_out or len(self.phases) == 1):
            results = self._examine()
            earlier = self.results or [Scores()] * len(results)
            self.results = [one.joined(other) for one, other in zip(earlier, results, strict=True)]
        self.curve.append(entry)
        self.epoch += 1
        return mean

    @property
    def finished(self) -> bool:
        """Nothing is left to do: all phases are through, or cross-validation said that it does not help."""
        compared = self.epoch >= self.phase_epochs * max(1, len(self.phases) - 1)
        return self.epoch >= self.epochs or (len(self.phases) > 1 and compared and not self.verdict()[0])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able values from which `restore` goes on."""
        tensors = {f"weights.{name}": value for name, value in self.learner.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        results = [dataclasses.asdict(result) for result in self.results]
        return tensors, {"epoch": self.epoch, "curve": self.curve, "results": results}

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from a `state` of a course with the same first weights, studies, settings and seed."""
        results = [Scores.restored(result) for result in record["results"]]
        epoch, curve = int(record["epoch"]), list(record["curve"])
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
