"""Fine-tuning of One-Prompt on a few labelled studies: what learns, and whether it helped.

Whether it helped is asked as the product is: from one template, and by the clicks that a slice needs. Where PromptSeg
segments the list, it is asked beside (`lib.finetuning.list_promptseg`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lib.finetuning.course import HELD_OUT
from lib.finetuning.episode_course import EpisodeCourse
from lib.finetuning.examination import Scores, clicks_needed, objection, template_dice
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListComparison, ListPromptSeg
from lib.finetuning.phases import Phase
from lib.finetuning.tuning import FineTuning
from lib.inference.templates import Template
from lib.learning.adapters import adapt, merged
from lib.learning.episodes import Episode
from lib.learning.training import StepResult, TrainingConfig, training_step
from lib.networks import OnePrompt


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


class FineTune(EpisodeCourse[OnePrompt]):
    """One fine-tuning of One-Prompt under way.

    Args:
        parent, studies, settings, device, seed, share, phases: see `EpisodeCourse`.
        promptseg: segments the list beside the parent; None where the parent segments it alone.

    Attributes:
        comparison: who is to segment the list beside the candidate; None where nobody else did.
    """

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
        promptseg: ListPromptSeg | None = None,
    ) -> None:
        super().__init__(parent, studies, settings, device, seed, share, phases)
        self.comparison = ListComparison(promptseg, settings, device) if promptseg else None

    def _learner(self, fresh: OnePrompt) -> Learner:
        return Learner(adapt(fresh, self.settings.mode))

    @property
    def network(self) -> OnePrompt:
        """See `EpisodeCourse`; after a single study, some of the way from the parent's weights."""
        network = merged(self.learner.network)
        if len(self.studies) == 1:
            theirs, own = self.parent.state_dict(), network.state_dict()
            network.load_state_dict({name: theirs[name].lerp(own[name], self.settings.alone) for name in own})
        return network

    def verdict(self) -> tuple[bool, str]:
        """Whether the candidate is better than its parent, and why."""
        return compare(self.before, self.after, self.settings, by_clicks=self.question_source == HELD_OUT)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Course`."""
        tensors, record = super().state()
        return tensors, {**record, "comparison": self.comparison.state() if self.comparison else {}}

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """See `Course`."""
        super().restore(tensors, record)
        if self.comparison:
            self.comparison.restore(record.get("comparison", {}))

    def _examine(self) -> list[Scores]:
        if self.comparison:
            learnt, held_out = ([self.studies[n] for n in own] for own in (self.phase.training, self.phase.held_out))
            self.comparison.ask(self.network, learnt, held_out)
        return super()._examine()

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
