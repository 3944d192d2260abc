"""Training a list-specific U-Net (`lib.segmenters.list_unet`) on labelled studies, and whether it helps.

Both are asked about held-out studies: One-Prompt from the studies that the U-Net learnt from, chosen as in serving.
Where PromptSeg segments the list, One-Prompt with the U-Net must be better than that, which it would take the place of.
The weight of the U-Net's logits is what was best there. A single study is held out by halves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from lib.finetuning.comparison import compare
from lib.finetuning.course import HELD_OUT
from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.network_course import NetworkCourse, NetworkSettings, TemplateExamination
from lib.finetuning.patches import Material, Patch, augmentation, spread_evenly
from lib.finetuning.phases import Phase
from lib.imaging.metrics import label_map_dice
from lib.learning.training import StepResult, TrainingConfig
from lib.networks import OnePrompt, list_unet
from lib.networks.checkpoints import weights_hash
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.segmenters.list_unet import (
    ListUNet,
    logits_of,
    of_channels,
    winners,
)

HALVES = "halves of the one study"


@dataclass(frozen=True)
class ListUNetSettings(NetworkSettings):
    """Every number of a list-specific U-Net's training; docs/finetuning.md has what was measured with them.

    Attributes:
        most_slices: slices of all studies that are kept in memory.
        tried_weights: weights of its logits that are tried; One-Prompt's have the rest.
        nearly: a smaller weight may have so much less Dice than the best one, because few studies were asked about.
    """

    most_slices: int = 2000
    tried_weights: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    nearly: float = 0.01


class ListUNetLearner(nn.Module):
    """A network whose forward pass is a whole training step, so that PyTorch's distributed wrapper sees it."""

    def __init__(self, structures: Sequence[str]) -> None:
        super().__init__()
        self.network = ListUNetNetwork(ListUNetConfig(tuple(structures)))
        self._loss = DiceCELoss(sigmoid=True, batch=True)

    def forward(
        self, patches: Sequence[Patch], config: TrainingConfig, rng: np.random.Generator
    ) -> tuple[Tensor, StepResult]:
        device = next(self.network.parameters()).device
        logits = self.network(torch.from_numpy(np.stack([patch.image for patch in patches])).to(device))
        labels = np.stack([patch.label for patch in patches])
        known = np.stack([patch.known for patch in patches])
        losses = []
        for place in np.flatnonzero(known.any(axis=0)):
            own_logits = logits[:, place][torch.from_numpy(known[:, place]).to(device)]
            truth = torch.from_numpy(labels[known[:, place]] == place + 1).to(device)
            losses.append(self._loss(own_logits[:, None], truth[:, None].float()))
        loss = torch.stack(losses).mean()
        masks = winners(logits.detach()).cpu().numpy()
        dices = np.array([label_map_dice(own, label) for own, label in zip(masks, labels, strict=True)])
        return loss, StepResult(loss, dices, ("specialist",) * len(patches), ("studies",) * len(patches))


class ListUNetTraining(NetworkCourse):
    """One training of a list-specific U-Net under way.

    Args:
        parent: One-Prompt, which has learnt from none of what is held out (`lib.finetuning.phases.held_out_ids`).
        studies: labelled studies, as `parts_of` gives them.
        settings: every number.
        device: torch device.
        seed, share, phases: see `Course`.
        promptseg: segments the list as long as there is no list-specific U-Net; None where One-Prompt does.
    """

    kind = Patch
    learner: ListUNetLearner

    def __init__(
        self,
        parent: OnePrompt,
        studies: Sequence[LabelledStudy],
        settings: ListUNetSettings = ListUNetSettings(),
        device: str = "cpu",
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        phases: Sequence[Phase] | None = None,
        promptseg: ListPromptSeg | None = None,
    ) -> None:
        super().__init__(studies, settings, seed, share, phases)
        self.settings, self.device, self._promptseg = settings, device, promptseg
        self._promptseg_network = promptseg.read() if promptseg else None
        self.parent = parent.eval().to(device)
        torch.manual_seed(seed)
        self._learn_with(ListUNetLearner(self.names).to(device), settings.training(self.phase_epochs * settings.steps))
        most = max(8, settings.most_slices // len(self.studies))
        self._material = [Material.of(study.read(), self.names, most, study.half is None) for study in self.studies]
        self._augmentation = augmentation()

    @property
    def list_unet(self) -> ListUNet:
        """A copy of what has been learnt up to now, of those structures that both were compared on."""
        names = self._learnt()
        return self._with([name for name in names if name in self.after.dice] or names)

    @property
    def chosen(self) -> int:
        """The smallest weight that is nearly as good as the best one, of those that may be published if there are any;
        the largest before anything was asked."""
        if not self.before.dice:
            return len(self.settings.tried_weights)
        tried = self.results[1:]
        allowed = [n for n, scores in enumerate(tried) if self._compared(scores)[0]] or range(len(tried))
        least = max(tried[n].mean_dice for n in allowed) - self.settings.nearly
        return 1 + next(n for n in allowed if tried[n].mean_dice >= least)

    @property
    def best_weight(self) -> float:
        """The chosen one of the weights."""
        return self.settings.tried_weights[self.chosen - 1]

    @property
    def question_source(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT if self.studies[0].half is None else HALVES

    @property
    def identity(self) -> Sequence[Any]:
        """One-Prompt, whose answers it is tried beside, the settings, and the PromptSeg that it is compared with."""
        identity = ["specialist", list_unet.FILTERS, weights_hash(self.parent), dataclasses.asdict(self.settings)]
        if self._promptseg and self._promptseg_network:
            identity.append([weights_hash(self._promptseg_network), self._promptseg.least, self._promptseg.most])
        return identity

    def verdict(self) -> tuple[bool, str]:
        """Whether One-Prompt is better with it than what serves the list, and why."""
        return self._compared(self.after)

    def _compared(self, after: Scores) -> tuple[bool, str]:
        # Two halves are too few for a standard error, and One-Prompt has seen their answers
        alone = self.question_source == HALVES
        settings = dataclasses.replace(self.settings, sure=0.0) if alone else self.settings
        before_by = "PromptSeg beside One-Prompt" if self._promptseg else "One-Prompt"
        return compare(self.before, after, settings, before_by=before_by)

    def _draw(self, rng: np.random.Generator, number: int) -> Patch:
        material = self._material[rng.choice(self.phase.training)]
        image, label = material.draw(rng, self.settings.shown)
        return Patch(*self._augmented(image, label, rng), material.known)

    def _answers(self) -> list[float]:
        """Of some slices held out; of the patches that were learnt from where none are."""
        learnt, self._dice = self._dice, []
        if not self.phase.held_out:
            return learnt
        own, dices = self._with(self._learnt()), []
        numbers = np.array([0, *(self.names.index(name) + 1 for name in own.structures)])
        for place in self.phase.held_out[: self.settings.most_queries]:
            material = self._material[place]
            some = spread_evenly(np.flatnonzero(material.labels.any(axis=(1, 2))), 4)
            if not len(some):  # what its label shows is smaller than a pixel here
                continue
            masks = numbers[winners(logits_of(own.network, [material.image(index) for index in some])).numpy()]
            dices += [label_map_dice(mask, truth) for mask, truth in zip(masks, material.labels[some], strict=True)]
        return dices

    def _learnt(self) -> list[str]:
        """Structures that some label of the phase has; the other channels say nothing."""
        known = np.any([self._material[place].known for place in self.phase.training], axis=0)
        return [name for name, own in zip(self.names, known, strict=True) if own]

    def _with(self, names: Sequence[str]) -> ListUNet:
        channels = [self.names.index(name) for name in names]
        return ListUNet(of_channels(self.learner.network, channels), self.best_weight, {})

    def _examine(self) -> list[Scores]:
        settings, phase = self.settings, self.phase
        # Half an object says little about the other half, which would speak for the U-Net: of a single study,
        # One-Prompt sees the answer itself
        shown = phase.held_out if self.question_source == HALVES else phase.training
        templates = [self.studies[place] for place in shown]
        examination = TemplateExamination(self.parent, self.device, templates, settings.most_templates)
        promptseg, network = self._promptseg, self._promptseg_network
        rival = (
            TemplateExamination(network, self.device, templates, promptseg.most, promptseg.least)
            if promptseg and network
            else None
        )
        own = self._with(self._learnt())
        results = [Scores()] * (1 + len(settings.tried_weights))
        for place in phase.held_out[: settings.most_queries]:  # one by one, because volumes are large
            query = self.studies[place].read()
            opinion = own.opinion(query.image)
            seconds = [None, *(dataclasses.replace(opinion, weight=weight) for weight in settings.tried_weights)]
            answered = examination.dices(query, seconds)
            if rival:
                answered[0] |= rival.dices(query)[0]  # as `PromptSegBeside`: One-Prompt's are what few templates show
            for number, dices in enumerate(answered):
                scores = Scores({name: (value,) for name, value in dices.items() if name in own.structures})
                results[number] = results[number].joined(scores)
        return results


def parts_of(studies: Sequence[LabelledStudy]) -> list[LabelledStudy]:
    """The studies that a course works on: of a single one its halves, which take turns, and the whole."""
    return [*studies[0].halves(), *studies] if len(studies) == 1 else list(studies)
