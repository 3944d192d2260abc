"""Training a specialist (`lib.segmenters.list_unet`) on labelled studies, and whether One-Prompt is better with it.

Both are asked about held-out studies: One-Prompt from the studies that the specialist learnt from, chosen as in
serving. How much the specialist's word counts is what was best there. A single study is held out by halves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined
from torch import Tensor, nn

from lib.finetuning.course import HELD_OUT, Course
from lib.finetuning.examination import Examined, answers_dice, objection, overlap
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase, Settings, phases_of
from lib.imaging.transforms import resize_label
from lib.imaging.volumes import Stack
from lib.inference.templates import Template, TemplateBank
from lib.learning.training import StepResult, TrainingConfig
from lib.networks import OnePrompt, list_unet
from lib.networks.checkpoints import weights_hash
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.segmenters.list_unet import (
    PATCH,
    ListUNet,
    logits_of,
    neighbours,
    of_channels,
    slices_of,
    winners,
)
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter

MARGIN = 1.25  # patches are cut so much larger than what is left of them after turning and stretching
HALVES = "halves of the one study"


@dataclass(frozen=True)
class ListUNetSettings:
    """Every number of a specialist's training; docs/finetuning.md has what was measured with them.

    Attributes:
        epochs, steps, batch: epochs of a phase, steps of an epoch, patches of a step.
        rate: learning rate.
        shown: share of the patches around a pixel of a structure; the others lie anywhere.
        folds, few, held_out, longer: as in `lib.finetuning.oneprompt.FineTuning`.
        most_asked: studies of a phase that both are asked about.
        most_slices: slices of all studies that are kept in memory.
        most_templates: templates that One-Prompt answers from, chosen as in serving.
        tried_weights: weights of its logits that are tried; One-Prompt's have the rest.
        nearly: a smaller weight may have so much less Dice than the best one, because few studies were asked about.
        least_gain: Dice that both together must be better by.
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
    most_asked: int = 4
    most_slices: int = 2000
    most_templates: int = 4
    tried_weights: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    nearly: float = 0.01
    least_gain: float = 0.01
    sure: float = 2.0
    most_loss: float = 0.03

    def training(self, total: int) -> TrainingConfig:
        """The settings of a step, of `total` ones in a phase."""
        return TrainingConfig(
            optimizer="adamw", learning_rate=self.rate, weight_decay=1e-3, warmup=max(1, total // 20), clip=12.0
        )


@dataclass(frozen=True, eq=False)
class Patch:
    """What is learnt from.

    Attributes:
        image: float32 (3, P, P), a slice between its neighbours.
        label: uint8 (P, P), numbers of the structures.
        known: bool (K,), the structures that the study's label has at all.
    """

    image: np.ndarray
    label: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class Material:
    """Some slices of a study.

    Attributes:
        planes: float16 (M, h, w), these slices and their neighbours.
        around: (N, 3), where in `planes` each slice lies between its neighbours.
        labels: uint8 (N, h, w), numbers of the structures.
        pixels: (K, N), how many pixels of each structure a slice shows.
        known: bool (K,), the structures that the study's label has at all.
    """

    planes: np.ndarray
    around: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, study: Template, names: Sequence[str], most: int, whole: bool = True) -> Material:
        """At most `most` slices: those that show a structure, and some of the others.

        What half a study does not show may lie in the other half: it is not known.
        """
        assert study.label is not None
        stack = Stack.of(study.image)
        slices, truths = slices_of(stack), stack.slices_of(study.label)
        showing = truths.any(axis=(1, 2))
        shown, others = np.flatnonzero(showing), np.flatnonzero(~showing)
        fewer = most // 5
        shown = _spread(shown, most - fewer)
        chosen = np.concatenate([shown, _spread(others, min(len(shown), fewer))])
        kept, around = np.unique(neighbours(chosen, len(slices)), return_inverse=True)
        numbers = np.zeros(int(truths.max()) + 1, np.uint8)
        for number, name in enumerate(names, start=1):
            if name in study.names and study.names[name] < len(numbers):
                numbers[study.names[name]] = number
        labels = np.stack([resize_label(numbers[truths[index]], slices.shape[1:]) for index in chosen])
        return cls(
            slices[kept].astype(np.float16),
            around.reshape(len(chosen), -1),
            labels,
            np.stack([(labels == number).sum(axis=(1, 2)) for number in range(1, len(names) + 1)]),
            np.array([name in (study.names if whole else study.structures) for name in names]),
        )

    def image(self, index: int) -> np.ndarray:
        """(3, h, w): a slice between its neighbours."""
        return np.asarray(self.planes[self.around[index]])

    def draw(self, rng: np.random.Generator, shown: float) -> tuple[np.ndarray, np.ndarray]:
        """A square (3, M, M) and its label (1, M, M), around a structure with the probability `shown`; zero beyond."""
        present = np.flatnonzero(self.pixels.any(axis=1))
        if len(present) and rng.random() < shown:
            structure = rng.choice(present)
            index = rng.choice(len(self.labels), p=self.pixels[structure] / self.pixels[structure].sum())
            places = np.argwhere(self.labels[index] == structure + 1)
            centre = places[rng.integers(len(places))]
        else:
            index, *centre = (rng.integers(n) for n in self.labels.shape)
        side = round(PATCH * MARGIN)
        # The image's border is seen as often as what lies inside; an image that is smaller than a patch lies in its
        # middle, as in `sliding_window_inference`
        beyond = (side - PATCH) // 2
        corner = [
            int(np.clip(c - side // 2, -beyond, n - side + beyond)) if n > PATCH else (n - side) // 2
            for c, n in zip(centre, self.labels.shape[1:], strict=True)
        ]
        both = np.concatenate([self.image(index), self.labels[index][None]]).astype(np.float32)
        square = np.zeros((len(both), side, side), np.float32)
        (top, left), (height, width) = corner, both.shape[1:]
        rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
        square[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = both[
            :, rows, columns
        ]
        return square[:-1], square[-1:]


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
            said = logits[:, place][torch.from_numpy(known[:, place]).to(device)]
            truth = torch.from_numpy(labels[known[:, place]] == place + 1).to(device)
            losses.append(self._loss(said[:, None], truth[:, None].float()))
        loss = torch.stack(losses).mean()
        found = winners(logits.detach()).cpu().numpy()
        dice = np.array([_mean_dice(own, label) for own, label in zip(found, labels, strict=True)])
        return loss, StepResult(loss, dice, ("specialist",) * len(patches), ("studies",) * len(patches))


class ListUNetTraining(Course):
    """One training of a specialist under way.

    Args:
        parent: One-Prompt, which has learnt from none of the studies that are asked about (`asked_of`).
        studies: labelled studies, as `parts_of` gives them.
        settings: every number.
        device: torch device.
        seed, share, phases: see `Course`.
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
    ) -> None:
        super().__init__(studies, settings, seed, share, phases)
        self.settings, self.device = settings, device
        self.parent = parent.eval().to(device)
        torch.manual_seed(seed)
        self._learn_with(ListUNetLearner(self.names).to(device), settings.training(self.phase_epochs * settings.steps))
        most = max(8, settings.most_slices // len(self.studies))
        self._material = [Material.of(study.read(), self.names, most, study.half is None) for study in self.studies]
        self._augmentation = _augmentation()
        self._dice: list[float] = []

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
        allowed = [n for n, found in enumerate(tried) if self._compared(found)[0]] or range(len(tried))
        least = max(tried[n].mean_dice for n in allowed) - self.settings.nearly
        return 1 + next(n for n in allowed if tried[n].mean_dice >= least)

    @property
    def best_weight(self) -> float:
        """The chosen one of the weights."""
        return self.settings.tried_weights[self.chosen - 1]

    @property
    def examined_on(self) -> str:
        """What the verdict rests on."""
        return HELD_OUT if self.studies[0].half is None else HALVES

    @property
    def identity(self) -> Sequence[Any]:
        """One-Prompt, whose answers it is tried beside, and the settings."""
        return ["specialist", list_unet.FILTERS, weights_hash(self.parent), dataclasses.asdict(self.settings)]

    def verdict(self) -> tuple[bool, str]:
        """Whether One-Prompt is better with it, and why."""
        return self._compared(self.after)

    def _compared(self, found: Examined) -> tuple[bool, str]:
        # Two halves are too few for a standard error, and One-Prompt has seen their answers
        alone = self.examined_on == HALVES
        return compare(self.before, found, dataclasses.replace(self.settings, sure=0.0) if alone else self.settings)

    def step(self, module: nn.Module, items: Sequence[Any]) -> StepResult:
        """As in `Course`; remembers the Dice."""
        result = super().step(module, items)
        self._dice += result.dice.tolist()
        return result

    def _prepare(self) -> None:
        self._dice = []

    def _draw(self, rng: np.random.Generator, number: int) -> Patch:
        material = self._material[rng.choice(self.phase.training)]
        image, label = material.draw(rng, self.settings.shown)
        self._augmentation.set_random_state(int(rng.integers(2**31)))
        changed: Mapping[str, Any] = self._augmentation({"image": image, "label": label})
        return Patch(
            np.asarray(changed["image"], np.float32),
            np.asarray(changed["label"])[0].round().astype(np.uint8),
            material.known,
        )

    def _answers(self) -> list[float]:
        """Of some slices held out; of the patches that were learnt from where none are."""
        learnt, self._dice = self._dice, []
        if not self.phase.held_out:
            return learnt
        own, found = self._with(self._learnt()), []
        numbers = np.array([0, *(self.names.index(name) + 1 for name in own.structures)])
        for place in self.phase.held_out[: self.settings.most_asked]:
            material = self._material[place]
            some = _spread(np.flatnonzero(material.labels.any(axis=(1, 2))), 4)
            if not len(some):  # what its label shows is smaller than a pixel here
                continue
            masks = numbers[winners(logits_of(own.network, [material.image(index) for index in some])).numpy()]
            found += [_mean_dice(mask, truth) for mask, truth in zip(masks, material.labels[some], strict=True)]
        return found

    def _learnt(self) -> list[str]:
        """Structures that some label of the phase has; the other channels say nothing."""
        known = np.any([self._material[place].known for place in self.phase.training], axis=0)
        return [name for name, own in zip(self.names, known, strict=True) if own]

    def _with(self, names: Sequence[str]) -> ListUNet:
        channels = [self.names.index(name) for name in names]
        return ListUNet(of_channels(self.learner.network, channels), self.best_weight, {})

    def _examine(self) -> list[Examined]:
        settings, phase = self.settings, self.phase
        # Half an object says little about the other half, which would speak for the specialist: of a single study,
        # One-Prompt sees the answer itself
        shown = phase.held_out if self.examined_on == HALVES else phase.training
        learnt = {self.studies[place].id: self.studies[place] for place in shown}
        bank = TemplateBank(lambda id: learnt[id].read())
        bank.refresh({id: study.checksum for id, study in learnt.items()})
        judged = SegmenterSettings(templates_per_query=settings.most_templates, quality_slices=0)
        predictor, own = SliceSegmenter(self.parent, self.device, judged), self._with(self._learnt())
        results = [Examined()] * (1 + len(settings.tried_weights))
        for place in phase.held_out[: settings.most_asked]:  # one by one, because volumes are large
            query = self.studies[place].read()
            alike = [bank.select(query.image, name, settings.most_templates) for name in query.structures]
            templates = list({template.id: template for some in alike for template in some}.values())
            said = own.opinion(query.image)
            seconds = [None, *(dataclasses.replace(said, weight=weight) for weight in settings.tried_weights)]
            for number, dice in enumerate(answers_dice(predictor, templates, query, seconds)):
                found = Examined({name: (value,) for name, value in dice.items() if name in own.structures})
                results[number] = results[number].joined(found)
        return results


def parts_of(studies: Sequence[LabelledStudy]) -> list[LabelledStudy]:
    """The studies that a course works on: of a single one its halves, which take turns, and the whole."""
    return [*studies[0].halves(), *studies] if len(studies) == 1 else list(studies)


def asked_of(studies: Sequence[LabelledStudy], settings: Settings) -> set[str]:
    """Names of the studies that are held out in some phase."""
    return {studies[place].id for phase in phases_of(studies, settings) for place in phase.held_out}


class Bounds(Protocol):
    """How much better a network must be than One-Prompt; `ListUNetSettings` explains them."""

    @property
    def least_gain(self) -> float: ...
    @property
    def sure(self) -> float: ...
    @property
    def most_loss(self) -> float: ...


def compare(
    before: Examined, after: Examined, settings: Bounds, other: str = "with the specialist"
) -> tuple[bool, str]:
    """Whether another network, or One-Prompt together with it, is better than One-Prompt alone; the reason in words."""
    gain = after.mean_dice - before.mean_dice
    figures = f"One-Prompt {before.mean_dice:.3f} Dice from its templates, {after.mean_dice:.3f} {other}"
    if against := objection(before, after, settings.most_loss):
        return False, f"{against}: {figures}" if after.dice else against
    if gain < settings.least_gain:
        return False, f"not better by {settings.least_gain} Dice: {figures}"
    if settings.sure and gain < settings.sure * (error := _standard_error(before, after)):
        return False, f"the gain differs too much from study to study (standard error {error:.3f}): {figures}"
    return True, figures


def _standard_error(before: Examined, after: Examined) -> float:
    """Of the mean gain over all questions; infinite for a single one."""
    gains = np.concatenate([np.subtract(after.dice[name], before.dice[name]) for name in after.dice])
    return float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf")


def _augmentation() -> Compose:
    """Patches stay as they lie, apart from small turns: left and right are not the same in a patient."""
    affine = RandAffined(
        ["image", "label"],
        prob=0.7,
        rotate_range=0.26,
        scale_range=(0.25, 0.25),
        spatial_size=(PATCH, PATCH),
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    grey = [
        RandGaussianNoised("image", prob=0.2, std=0.1),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", factors=0.2, prob=0.3),
        RandShiftIntensityd("image", offsets=0.2, prob=0.3),
    ]
    return Compose([affine, *grey])


def _mean_dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Over the structures that are in either."""
    numbers = np.union1d(found, truth)
    values = [overlap(found == number, truth == number) for number in numbers if number]
    return float(np.mean(values)) if values else 1.0


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly."""
    places = np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))
    return np.asarray(indices[places])
