"""Fine-tuning of PromptSeg on a few labelled studies: a step reads several prompts, and several templates answer.

Its image encoder stays as it is, so that an encoded slice goes on to serve One-Prompt too where it is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from lib.finetuning.episode_course import EpisodeCourse
from lib.finetuning.examination import Scores, objection
from lib.finetuning.network_course import TemplateExamination
from lib.finetuning.tuning import FineTuning
from lib.learning.episodes import Episode
from lib.learning.several_prompts import SeveralPrompts, several_prompts_step
from lib.learning.training import StepResult, TrainingConfig
from lib.networks.promptseg import PromptSeg

TUNING = FineTuning(batch=2, queries=5)
MOST_TEMPLATES = 4  # that answer about a held-out study, chosen as in serving


class SeveralPromptsLearner(nn.Module):
    """A network whose forward pass is a whole training step, so that PyTorch's distributed wrapper sees it."""

    def __init__(self, network: PromptSeg, several: SeveralPrompts) -> None:
        super().__init__()
        self.network, self._several = network, several
        network.requires_grad_(True).image_encoder.requires_grad_(False)

    def forward(
        self, episodes: Sequence[Episode], config: TrainingConfig, rng: np.random.Generator
    ) -> tuple[Tensor, StepResult]:
        result = several_prompts_step(self.network, episodes, config, self._several, rng)
        return result.loss, result


class PromptSegTuning(EpisodeCourse[PromptSeg]):
    """One fine-tuning of PromptSeg under way; see `EpisodeCourse`."""

    learner: SeveralPromptsLearner

    def _learner(self, fresh: PromptSeg) -> SeveralPromptsLearner:
        types = self.settings.training(1).template_types
        return SeveralPromptsLearner(fresh, SeveralPrompts(prompt_types=dict(types)))

    @property
    def network(self) -> PromptSeg:
        """See `EpisodeCourse`."""
        return copy.deepcopy(self.learner.network).requires_grad_(False).eval()

    def verdict(self) -> tuple[bool, str]:
        """Whether the candidate is better than its parent, and why."""
        before, after, settings = self.before, self.after, self.settings
        figures = f"Dice from the other studies {before.mean_dice:.3f} to {after.mean_dice:.3f}"
        if against := objection(before, after, settings.most_loss):
            return False, f"{against}: {figures}" if after.dice else against
        if after.mean_dice - before.mean_dice < settings.least_gain:
            return False, f"not better by {settings.least_gain} Dice: {figures}"
        return True, figures

    def _scores(self, network: PromptSeg) -> Scores:
        """From templates of the studies that were learnt from, chosen as in serving."""
        learnt = [self.studies[place] for place in self.phase.training]
        examination = TemplateExamination(network, self.device, learnt, MOST_TEMPLATES)
        dice: dict[str, tuple[float, ...]] = {}
        for place in self.phase.held_out[: self.settings.most_queries]:
            [answered] = examination.dices(self.studies[place].read())
            for name, value in answered.items():
                dice[name] = (*dice.get(name, ()), value)
        return Scores(dice)
