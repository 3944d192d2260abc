"""What the courses of the other networks have in common: they learn from patches and are compared with One-Prompt.

One-Prompt answers from the studies that the network learnt from, chosen as in serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from lib.finetuning.course import Course
from lib.finetuning.examination import answers_dice
from lib.finetuning.labelled_study import LabelledStudy
from lib.inference.templates import Template, TemplateBank
from lib.learning.training import StepResult, TrainingConfig
from lib.networks import OnePrompt
from lib.networks.promptseg import PromptSeg
from lib.segmenters.second_opinion import SecondOpinion
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter


@dataclass(frozen=True)
class NetworkSettings:
    """The numbers that these courses share.

    Attributes:
        epochs, steps, batch: epochs of a phase, steps of an epoch, patches of a step.
        rate: learning rate.
        shown: share of the patches around a place where a structure is; the others lie anywhere.
        folds, few, held_out, longer: as in `lib.finetuning.tuning.FineTuning`.
        most_queries: studies of a phase that both are asked about.
        most_templates: templates that One-Prompt answers from, chosen as in serving.
        least_gain: Dice that a network must be better by.
        sure: standard errors that the gain must be larger than, because few questions agree by chance; not asked of the
            halves of a single study.
        most_loss: Dice that a structure may lose.
    """

    epochs: int = 4
    steps: int = 100
    batch: int = 4
    rate: float = 2e-3
    shown: float = 0.7
    folds: int = 2
    few: int = 8
    held_out: float = 0.25
    longer: int = 2
    most_queries: int = 4
    most_templates: int = 4
    least_gain: float = 0.01
    sure: float = 2.0
    most_loss: float = 0.03

    def training(self, total: int) -> TrainingConfig:
        """The settings of a step, of `total` ones in a phase."""
        return TrainingConfig(
            optimizer="adamw", learning_rate=self.rate, weight_decay=1e-3, warmup=max(1, total // 20), clip=12.0
        )


class NetworkCourse(Course):
    """A course that learns from patches; a subclass calls `_learn_with` and sets `_augmentation`."""

    _augmentation: Any  # one of MONAI's that is `Randomizable`, of {"image", "label"}

    def step(self, module: nn.Module, items: Sequence[Any]) -> StepResult:
        """As in `Course`; remembers the Dice."""
        result = super().step(module, items)
        self._dice += result.dice.tolist()
        return result

    def _prepare(self) -> None:
        self._dice: list[float] = []

    def _augmented(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, ...) and label map (1, ...) as float32 (C, ...) and uint8 (...), changed alike."""
        self._augmentation.set_random_state(int(rng.integers(2**31)))
        changed: Mapping[str, Any] = self._augmentation({"image": image, "label": label})
        return np.asarray(changed["image"], np.float32), np.asarray(changed["label"])[0].round().astype(np.uint8)


class TemplateExamination:
    """A network asked about labelled studies, from templates that are chosen among others as in serving.

    Args:
        network: One-Prompt or PromptSeg, which has learnt from none of the studies that it will be asked about.
        device: torch device.
        studies: the templates.
        most: templates for one structure.
        least: structures that fewer templates show are not asked about.
    """

    def __init__(
        self, network: OnePrompt | PromptSeg, device: str, studies: Iterable[LabelledStudy], most: int, least: int = 1
    ) -> None:
        by_id = {study.id: study for study in studies}
        self._bank, self._most, self.least = TemplateBank(lambda id: by_id[id].read()), most, least
        self._bank.refresh({id: study.checksum for id, study in by_id.items()})
        settings = SegmenterSettings(templates_per_query=most, quality_slices=0)
        self._segmenter = SliceSegmenter(network.eval().to(device), device, settings)

    def dices(self, query: Template, seconds: Sequence[SecondOpinion | None] = (None,)) -> list[dict[str, float]]:
        """With each of some second opinions: structure to Dice, as `answers_dice`."""
        selections = [self._bank.select(query.image, name, self._most) for name in query.structures]
        templates = list({template.id: template for selection in selections for template in selection}.values())
        return answers_dice(self._segmenter, templates, query, seconds, self.least)
