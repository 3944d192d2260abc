"""The `oneprompt_specialist` trainer: a network for this study list alone, used where One-Prompt is better with it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from monailabel.tasks.train.basic_train import Context

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.list_unet_training import ListUNetSettings, ListUNetTraining, parts_of
from lib.finetuning.options import TrainingOptions
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.training_record import update_record
from lib.finetuning.versions import CANDIDATE, PUBLISHED
from lib.networks.checkpoints import load_network, weights_hash
from trainers.network import NetworkTrainer

logger = logging.getLogger(__name__)


class ListUNetTrainer(NetworkTrainer[ServedListUNet]):
    """Training of a list-specific U-Net as MONAI Label runs it.

    Args:
        served, unlearnt: see `NetworkTrainer`; One-Prompt must be better with it.
        studies: gives the study list's final labels.
        settings: the numbers of a training.
        promptseg: gives what segments the list beside One-Prompt where there is no list-specific U-Net; None for none.
    """

    def __init__(
        self,
        served: ServedListUNet,
        unlearnt: Callable[[Collection[str]], Path],
        studies: Callable[[], list[LabelledStudy]],
        settings: ListUNetSettings = ListUNetSettings(),
        promptseg: Callable[[], ListPromptSeg | None] = lambda: None,
    ) -> None:
        description = "Trains a network for this study list alone, beside One-Prompt"
        super().__init__(served, unlearnt, description, studies, settings, {})
        self._promptseg: Callable[[], ListPromptSeg | None] | None = promptseg

    def __getstate__(self) -> dict[str, Any]:
        """Without the server's parts."""
        return {**super().__getstate__(), "_promptseg": None}

    def _prepared(
        self, request: dict[str, Any], options: TrainingOptions, settings: ListUNetSettings
    ) -> ListUNetSettings:
        assert self._promptseg is not None
        request["promptseg"] = self._promptseg()
        return dataclasses.replace(settings, rate=options.rate(settings.rate))

    def _parts(self, studies: list[LabelledStudy]) -> list[LabelledStudy]:
        return parts_of(studies)

    def _made(self, context: Context, share: tuple[int, int]) -> ListUNetTraining:
        request = context.request
        parent, settings, promptseg = load_network(request["parent"]), request["settings"], request["promptseg"]
        device, studies = str(context.device), context.datalist
        return ListUNetTraining(parent, studies, settings, device, share=share, promptseg=promptseg)

    def _conclude(self, request: Mapping[str, Any]) -> None:
        """Offer it if it is better; else take away one that learnt from fewer of the same labels."""
        course = self.course
        assert isinstance(course, ListUNetTraining)
        better, reason = self._whole_verdict()
        record = self._record(PUBLISHED if better else CANDIDATE, reason, weights_hash(course.parent))
        offered = self._served.current
        if better:
            made = dataclasses.replace(course.list_unet, record={"created": round(time.time(), 3), **record})
            self._served.publish(made)
        elif offered and course.finished and course.after.dice and not course.verdict()[0] and self._usual(request):
            older = offered.record.get("studies", {})
            if older.items() < record["studies"].items():
                self._served.withdraw()
                record["reason"] = f"{reason}; the one from {len(older)} labelled studies is withdrawn"
        logger.info("%s: %s", record["state"], reason)
        update_record(self.models, **record)

    def _usual(self, request: Mapping[str, Any]) -> bool:
        """Whether the training had the numbers that it has unless a client says others."""
        batch = request["train_batch_size"]
        return bool(request["settings"] == self._settings and batch == self._settings.batch)
