"""A training of UniSeg on a list's labelled volumes, and whether it is better than One-Prompt there.

Both are asked about held-out studies: One-Prompt from the studies that UniSeg learnt from, chosen as in serving. Every
training begins with the same start, random or a trained model, and never with what an earlier one of the list ended
with, so that what is held out is new to it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.finetuning.comparison import compare
from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.network_course import NetworkCourse, NetworkSettings, TemplateExamination
from lib.finetuning.phases import Phase
from lib.finetuning.uniseg.learner import UniSegLearner
from lib.finetuning.uniseg.material import Material, Patch, augmentation
from lib.finetuning.uniseg.plan import Facts, plan_config, plan_tasks, read_study
from lib.imaging.images import ImageError
from lib.imaging.metrics import dice, label_map_dice
from lib.networks import OnePrompt
from lib.networks.checkpoints import weights_hash
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.networks.uniseg.growth import extended, restarted
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.tasks import Task, TaskError
from lib.segmenters.uniseg.windows import window_logits

KEPT = "kept: "  # before the names of structures whose answers are compared with those of the start


@dataclass(frozen=True)
class UniSegSettings(NetworkSettings):
    """Every number of a training; docs/uniseg.md has what was measured with them.

    Attributes:
        least_dice: needed where One-Prompt cannot be asked, because the studies have several channels.
        apart: a task for each structure instead of one for all of the list.
        keep: the tasks of the start are kept beside the new ones.
        replay: share of the steps that repeat a kept task of which the list has no labels.
        least_kept: Dice that the answers to kept tasks must have with those of the start.
    """

    batch: int = 2
    least_dice: float = 0.5
    apart: bool = False
    keep: bool = True
    replay: float = 0.3
    least_kept: float = 0.9


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Attributes:
        tasks: of the network; those from `first` on are learnt, the others kept.
        first: index of the first task that is learnt.
        network: with its first weights.
        older: answers the kept tasks; None where none are kept.
    """

    tasks: tuple[Task, ...]
    first: int
    network: UniSeg
    older: UniSeg | None


def answered(
    segmenter: UniSegSegmenter, study: LabelledStudy, names: Collection[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mask and truth, bool on the study's own grid, of those of some structures that its label names."""
    volume, label = read_study(study)
    wanted = {name: number for number, name in enumerate(sorted(set(names) & set(study.names)), start=1)}
    mask = segmenter.segment_study(volume, wanted).mask if wanted else label
    return {name: (mask == number, label == study.names[name]) for name, number in wanted.items()}


class UniSegTraining(NetworkCourse):
    """One training under way.

    Args:
        studies: labelled volumes of the list; some are held out.
        settings: every number.
        folder: where prepared volumes lie, as files without a name.
        sizes: of a network that begins at random.
        start: a trained model to begin with.
        others: names of further lists with their labelled volumes, which are learnt from and never asked about.
        parent: One-Prompt, which has learnt from none of the studies that are asked about; None is not compared with.
        device: torch device.
        seed, share, phases: see `Course`.

    Raises:
        PlanError, ImageError: studies that UniSeg cannot learn from.
    """

    kind = Patch
    learner: UniSegLearner

    def __init__(
        self,
        studies: Sequence[LabelledStudy],
        settings: UniSegSettings = UniSegSettings(),
        *,
        folder: Path,
        sizes: UniSegConfig = UniSegConfig.small(),
        start: UniSegModel | None = None,
        others: Mapping[str, Sequence[LabelledStudy]] = {},
        parent: OnePrompt | None = None,
        device: str = "cpu",
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        phases: Sequence[Phase] | None = None,
    ) -> None:
        super().__init__(studies, settings, seed, share, phases)
        self.settings, self.device, self.parent = settings, device, parent
        self._base = start.hash if start else ""
        torch.manual_seed(seed)
        lists = {"this list": list(studies), **{name: list(own) for name, own in others.items()}}
        self._plan(lists, sizes, start)
        classes = [1 + len(task.structures) for task in self.start.tasks]
        learner = UniSegLearner(self.start.network, classes, self.start.older).to(device)
        self._learn_with(learner, settings.training(self.phase_epochs * settings.steps))
        self._prepare_material(lists, folder)
        self._augmentation = augmentation(self.config.patch)

    @property
    def config(self) -> UniSegConfig:
        """Sizes of the network."""
        return self.learner.network.config

    @property
    def identity(self) -> Sequence[Any]:
        """What is begun with, and the settings."""
        tasks = [task.as_dict() for task in self.start.tasks]
        parent = weights_hash(self.parent) if self.parent else ""
        return ["uniseg", self.config.as_dict(), tasks, self._base, parent, dataclasses.asdict(self.settings)]

    def model(self, record: Mapping[str, Any]) -> UniSegModel:
        """A copy of what has been learnt up to now."""
        network = copy.deepcopy(self.learner.network).requires_grad_(False).eval()
        return UniSegModel(network, self.start.tasks, dict(record))

    def verdict(self) -> tuple[bool, str]:
        """Whether it is better than One-Prompt from its templates, and why."""
        before, after = self.before, self.after
        own = Scores({name: values for name, values in after.dice.items() if not name.startswith(KEPT)})
        kept = {name: float(np.mean(values)) for name, values in after.dice.items() if name.startswith(KEPT)}
        if kept and min(kept.values()) < self.settings.least_kept:
            worst = min(kept, key=lambda name: kept[name])
            return False, f"{worst.removeprefix(KEPT)} is no longer answered as before ({kept[worst]:.3f} Dice)"
        if not before.dice:
            enough = own.mean_dice >= self.settings.least_dice
            return enough, f"{own.mean_dice:.3f} Dice on held-out studies, One-Prompt cannot be asked about them"
        return compare(before, own, self.settings, "with UniSeg")

    # How it begins

    def _plan(self, lists: Mapping[str, list[LabelledStudy]], sizes: UniSegConfig, start: UniSegModel | None) -> None:
        facts = {name: [Facts.of(study) for study in own] for name, own in lists.items()}
        self._tasks_of = {name: plan_tasks(name, own, facts[name], self.settings.apart) for name, own in lists.items()}
        learnt = tuple(task for tasks in self._tasks_of.values() for task in tasks)
        outputs = 1 + max(len(task.structures) for task in learnt)
        if start is None:
            by_task = {task.name: facts[name] for name, tasks in self._tasks_of.items() for task in tasks}
            self.start = Start(learnt, 0, UniSeg(plan_config(learnt, by_task, sizes)), None)
            return
        old = start.network.config
        if unfit := [task.name for task in learnt if len(task.channels) not in old.channels]:
            raise TaskError(f"the start takes images of {old.channels} channels, and {', '.join(unfit)} have others")
        if self.settings.keep:
            clash = {task.name for task in start.tasks} & {task.name for task in learnt}
            if clash:
                raise TaskError(f"the start knows a task named {', '.join(sorted(clash))} already: begin with another")
            network = extended(start.network, len(start.tasks) + len(learnt), max(old.outputs, outputs))
            self.start = Start((*start.tasks, *learnt), len(start.tasks), network, copy.deepcopy(start.network))
            return
        config = dataclasses.replace(old, tasks=len(learnt), outputs=outputs, fuse_features=0)
        self.start = Start(learnt, 0, restarted(start.network, config), None)

    def _prepare_material(self, lists: Mapping[str, list[LabelledStudy]], folder: Path) -> None:
        """Of the own list by study, of the others, and of kept tasks."""
        index = self.start.first
        self._own: list[list[Material]] = [[] for _ in self.studies]
        self._further: list[Material] = []
        for name, tasks in self._tasks_of.items():
            for task in tasks:
                for place, study in enumerate(lists[name]):
                    material = Material.of(study, task, index, folder)
                    if name == "this list":
                        self._own[place].append(material)
                    elif material.known.any():
                        self._further.append(material)
                index += 1
        self._kept: list[list[Material]] = [[] for _ in self.studies]
        for number, task in enumerate(self.start.tasks[: self.start.first]):
            for place, study in enumerate(self.studies):
                if len(self._own[place][0].image) == len(task.channels):
                    try:
                        self._kept[place].append(Material.of(study, task, number, folder, labelled=False))
                    except ImageError:  # a spacing that this task cannot work at says nothing against the study
                        continue

    # What the course asks for

    def _prepare(self) -> None:
        super()._prepare()
        shown = [material for place in self.phase.training for material in self._own[place] if material.known.any()]
        self._by_task: dict[int, list[Material]] = {}
        for material in [*shown, *self._further]:
            self._by_task.setdefault(material.task, []).append(material)
        self._repeated: dict[int, list[Material]] = {}
        for place in self.phase.training:
            for material in self._kept[place]:
                self._repeated.setdefault(material.task, []).append(material)

    def _draw(self, rng: np.random.Generator, number: int) -> Patch:
        epoch, place = divmod(number, 1_000_000)
        step = place // self.batch
        # what all patches of a step have in common is drawn from the step's own numbers
        common = np.random.default_rng((self.seed, self.share[0], epoch, step, 1))
        group, turn = self._by_task, step
        if self._repeated and common.random() < self.settings.replay:
            group, turn = self._repeated, int(common.integers(len(self._repeated)))
        task = sorted(group)[turn % len(group)]
        material = group[task][rng.integers(len(group[task]))]
        image, label = material.draw(rng, self.config.patch, self.settings.shown)
        return Patch(*self._augmented(image, label, rng), material.known, task)

    def _answers(self) -> list[float]:
        """Of held-out studies at the network's own spacing; of the patches that were learnt from where none are."""
        learnt, self._dice = self._dice, []
        network, dices = self.learner.network.eval(), []
        for place in self.phase.held_out[: self.settings.most_queries]:
            for material in self._own[place]:
                image = torch.from_numpy(np.asarray(material.image, np.float32))
                [logits] = window_logits(network, image, {material.task: 1 + len(material.known)}, self.config.patch)
                dices.append(label_map_dice(logits.argmax(dim=0).numpy(), np.asarray(material.label), material.known))
        return dices if self.phase.held_out else learnt

    def _examine(self) -> list[Scores]:
        """One-Prompt, and UniSeg; of kept tasks the agreement with the start, under `KEPT` and the structure's name."""
        phase, settings = self.phase, self.settings
        segmenter = UniSegSegmenter(self.model({}), self.device)
        learnt = [self.studies[place] for place in phase.training]
        known = {name for study in learnt for name in study.names}
        one_prompt = self.parent and TemplateExamination(self.parent, self.device, learnt, settings.most_templates)
        before, after = Scores(), Scores()
        for place in phase.held_out[: settings.most_queries]:  # one by one, because volumes are large
            study = self.studies[place]
            own = {name: (dice(*pair),) for name, pair in answered(segmenter, study, known).items()}
            if not own:
                continue
            single = len(self._own[place][0].image) == 1  # One-Prompt takes one channel
            by_templates = one_prompt.dices(study.read())[0] if one_prompt and single else {}
            both = {name: own[name] for name in own if name in by_templates} if by_templates else own
            before = before.joined(Scores({name: (by_templates[name],) for name in both if name in by_templates}))
            after = after.joined(Scores({**both, **self._agreement(place)}))
        return [before, after]

    def _agreement(self, place: int) -> dict[str, tuple[float, ...]]:
        """Of the answers to the kept tasks with those of the start."""
        dices: dict[str, tuple[float, ...]] = {}
        for material in self._kept[place]:
            image = torch.from_numpy(np.asarray(material.image, np.float32))
            classes = {material.task: 1 + len(material.known)}
            assert self.start.older is not None
            older = self.start.older.eval().to(self.device)
            [now], [once] = (
                window_logits(network, image, classes, self.config.patch)
                for network in (self.learner.network.eval(), older)
            )
            for number, name in enumerate(self.start.tasks[material.task].structures, start=1):
                one, other = (logits.argmax(dim=0).numpy() == number for logits in (now, once))
                dices[f"{KEPT}{name}"] = (dice(one, other),)
        return dices
