"""Fine-tuning on a few labelled studies: what is learnt, for how long, and whether it helped.

A course (`lib.finetuning.course`) of One-Prompt on episodes of the list's own studies, from the weights that are
served. A single study can only be asked about changed copies of itself, and the verdict says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, get_args

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from lib.finetuning.course import HELD_OUT, Course
from lib.finetuning.examination import Scores, answer, clicks_needed, objection, questions, template_dice
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase
from lib.imaging.prompts import PromptType
from lib.imaging.transforms import normalise, resize_image, resize_label
from lib.imaging.volumes import Stack, thick_axis
from lib.inference.templates import Template
from lib.learning.adapters import MODES, adapt, merged
from lib.learning.episodes import STORED_SIZE, Episode, EpisodeSource, Mix, RealTasks
from lib.learning.optimizers import OptimizerName
from lib.learning.training import StepResult, TrainingConfig, training_step
from lib.networks import OnePrompt
from lib.networks.checkpoints import weights_hash
from lib.parsing import Count, CountOrNone, Number, ParseError, Share, problem

VIEWS = "changed copies of the one study"


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class FineTuning:
    """Every number of a fine-tuning; docs/finetuning.md has what was measured with them.

    Attributes:
        mode: which weights learn, one of `lib.learning.adapters.MODES`.
        optimizer: see `lib.learning.optimizers`.
        rates: learning rate of each mode.
        epochs, steps: epochs of a phase, steps of an epoch.
        batch, queries: episodes of a step, queries of an episode.
        synthetic: share of synthetic episodes, against forgetting.
        unchanged: share of the list's own episodes that stay as its images lie and look (`lib.learning.episodes.Mix`).
        masks: share of templates whose prompt is their mask, as a saved label's is; the other kinds share the rest.
        alone: how much of the way from the parent's weights is gone where one study was learnt from, because such a
            candidate knows that one too well (averages as in Wortsman et al., "Robust fine-tuning of zero-shot models",
            CVPR 2022).
        folds: times that the studies are divided while there are few.
        few: up to so many studies are cross-validated; of more, `held_out` (a share) are set apart.
        longer: times as many epochs for the one phase of more studies, which costs what cross-validation does.
        most_queries: studies of a phase that are asked about as the product would be, which takes seconds for a volume.
        most_questions: slices that are asked about after each epoch, in all.
        most_slices: slices of all studies that are kept in memory, in each plane.
        least_gain: Dice that a candidate must be better by.
        most_loss: Dice that a structure may lose.
        more_clicks: clicks that a candidate may need more; so many fewer make it better where its Dice is as good.
    """

    mode: Annotated[str, Field(pattern=rf"^({'|'.join(MODES)})$", description=f"one of {', '.join(MODES)}")] = "full"
    optimizer: Annotated[OptimizerName, Field(description=f"one of {', '.join(get_args(OptimizerName))}")] = "adamw"
    rates: Annotated[Mapping[str, float], Field(description="the learning rate of each mode")] = field(
        default_factory=lambda: {"full": 5e-4, "norms": 2e-3, "lora": 2e-3}
    )
    epochs: Count = 4
    steps: Count = 20
    batch: Count = 4
    queries: Count = 2
    synthetic: Share = 0.1
    unchanged: Share = 0.8
    masks: Share = 0.85
    alone: Share = 0.5
    folds: Annotated[int, Field(ge=2, description="a whole number from 2 on")] = 2
    few: CountOrNone = 8
    longer: Count = 3
    held_out: Annotated[float, Field(gt=0, le=0.5, description="a share up to a half")] = 0.25
    most_queries: Count = 4
    most_questions: Count = 48
    most_slices: Count = 1200
    least_gain: Number = 0.005
    most_loss: Number = 0.03
    more_clicks: Number = 0.25

    @property
    def mix(self) -> Mix:
        """Shares of the kinds of episodes where there are several studies."""
        mix = Mix(foreign=0.0, regions=0.05, same_image=0.2, absent=0.06, unions=0.0)
        return dataclasses.replace(mix, synthetic=self.synthetic, unchanged=self.unchanged)

    @property
    def mix_alone(self) -> Mix:
        """The same for one study, which has no partner: its own slices in changed copies."""
        mix = Mix(foreign=0.0, regions=0.1, same_image=0.9 - self.synthetic, absent=0.0, unions=0.0)
        return dataclasses.replace(mix, synthetic=self.synthetic, unchanged=self.unchanged)

    @classmethod
    def parse(cls, text: str) -> FineTuning:
        """The defaults with some changed, as `epochs=2,steps=10`.

        Raises:
            ParseError: a name that is not among the settings, or a value that does not fit.
        """
        given: dict[str, Any] = dict(part.strip().partition("=")[::2] for part in filter(None, text.split(",")))
        if "rate" in given:
            default = cls()
            given["rates"] = {**default.rates, given.get("mode", default.mode): given.pop("rate")}
        try:
            return cls(**given)
        except ValidationError as error:
            known = {"rate": Field(), **cls.__pydantic_fields__}  # type: ignore[attr-defined]
            raise ParseError(problem(error, known, "settings as NAME=VALUE,...")) from error

    def training(self, total: int) -> TrainingConfig:
        """The settings of a step, of `total` ones in a phase."""
        kinds = list(PromptType)
        rest = (1 - self.masks) / (len(kinds) - 1)
        return TrainingConfig(
            optimizer=self.optimizer,
            learning_rate=self.rates[self.mode],
            warmup=max(1, total // 10),
            template_types={kind: self.masks if kind is PromptType.SEGLAB else rest for kind in kinds},
        )


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


class Learner(nn.Module):
    """A network whose forward pass is a whole training step, so that PyTorch's distributed wrapper sees it."""

    def __init__(self, network: OnePrompt) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, episodes: Sequence[Episode], config: TrainingConfig, rng: np.random.Generator
    ) -> tuple[Tensor, StepResult]:
        result = training_step(self.network, episodes, config, rng)
        return result.loss, result


class FineTune(Course):
    """One fine-tuning under way.

    Args:
        parent: network that is served now; it is not changed.
        studies: labelled studies.
        settings: every number.
        device: torch device.
        seed, share, phases: see `Course`.
    """

    kind = Episode
    learner: Learner

    def __init__(
        self,
        parent: OnePrompt,
        studies: Sequence[LabelledStudy],
        settings: FineTuning,
        device: str = "cpu",
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        phases: Sequence[Phase] | None = None,
    ) -> None:
        super().__init__(studies, settings, seed, share, phases)
        self.settings, self.device = settings, device
        self.parent = parent.eval().to(device)
        torch.manual_seed(seed)
        fresh = OnePrompt(parent.config)
        fresh.load_state_dict(parent.state_dict())
        learner = Learner(adapt(fresh, settings.mode).to(device))
        self._learn_with(learner, settings.training(self.phase_epochs * settings.steps))
        self._indices = {name: number for number, name in enumerate(self.names, start=1)}
        most = max(4, min(40, settings.most_slices // len(self.studies)))
        self._slices = [slices_of(study.read(), self._indices, most) for study in self.studies]
        self._source: EpisodeSource | None = None
        self._questions: list[tuple[int, Episode]] = []

    @property
    def network(self) -> OnePrompt:
        """The candidate as it is now, with plain weights."""
        network = merged(self.learner.network)
        if len(self.studies) == 1:
            theirs, own = self.parent.state_dict(), network.state_dict()
            network.load_state_dict({name: theirs[name].lerp(own[name], self.settings.alone) for name in own})
        return network

    @property
    def question_source(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT if len(self.studies) > 1 else VIEWS

    @property
    def identity(self) -> Sequence[Any]:
        """The parent and the settings."""
        return [weights_hash(self.parent), dataclasses.asdict(self.settings)]

    def verdict(self) -> tuple[bool, str]:
        """Whether the candidate is better than its parent, and why."""
        return compare(self.before, self.after, self.settings, by_clicks=self.question_source == HELD_OUT)

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

    def _answered_by(self, network: OnePrompt) -> list[float]:
        episodes = [episode for _, episode in self._questions]
        batches = [episodes[start : start + 8] for start in range(0, len(episodes), 8)]
        return [float(dice) for batch in batches for dice in answer(network, batch)]

    def _examine(self) -> list[Scores]:
        return [self._scores(self.parent), self._scores(self.network)]

    def _scores(self, network: OnePrompt) -> Scores:
        clicks = clicks_needed(network, [e for _, e in self._questions[:: max(1, len(self._questions) // 8)]])
        if self.phase.held_out:
            return Scores(template_dice(network, self._pairs(), self.device), clicks)
        names = {index: name for name, index in self._indices.items()}
        dice: dict[str, tuple[float, ...]] = {}
        for (value, _), score in zip(self._questions, self._answered_by(network), strict=True):
            dice[names[value]] = (*dice.get(names[value], ()), score)
        return Scores(dice, clicks)

    def _pairs(self) -> list[tuple[list[Template], Template]]:
        """Each study that is asked about, with one of those learnt from as its template."""
        learnt, held_out = self.phase.training, self.phase.held_out[: self.settings.most_queries]
        read = {place: self.studies[place].read() for place in (*held_out, *learnt[: len(held_out)])}
        return [([read[learnt[n % len(learnt)]]], read[place]) for n, place in enumerate(held_out)]


def compare(before: Scores, after: Scores, settings: FineTuning, by_clicks: bool = True) -> tuple[bool, str]:
    """Whether `after` is better than `before`, and the reason in words.

    Args:
        by_clicks: fewer clicks alone make it better too; not on copies of what was learnt, which always need fewer.
    """
    gain, clicks = after.mean_dice - before.mean_dice, after.mean_clicks - before.mean_clicks
    figures = (
        f"one-template Dice {before.mean_dice:.3f} to {after.mean_dice:.3f}, "
        f"clicks {before.mean_clicks:.1f} to {after.mean_clicks:.1f}"
    )
    if against := objection(before, after, settings.most_loss):
        return False, f"{against}: {figures}" if after.dice else against
    if clicks > settings.more_clicks:
        return False, f"it needs more clicks: {figures}"
    fewer = by_clicks and clicks <= -settings.more_clicks
    if gain < (-settings.least_gain if fewer else settings.least_gain):
        return False, f"not better by {settings.least_gain} Dice: {figures}"
    return True, figures
