"""The `uniseg` trainer: a 3-D network for the list's labelled volumes, offered where it is better than One-Prompt."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.tasks.train.basic_train import Context

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.options import TrainingOptions
from lib.finetuning.phases import enough_studies
from lib.finetuning.training_record import update_record
from lib.finetuning.uniseg.course import UniSegSettings, UniSegTraining
from lib.finetuning.uniseg.lists import read_list
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.finetuning.versions import CANDIDATE, PUBLISHED
from lib.networks.checkpoints import load_network
from lib.networks.uniseg import UniSegConfig
from trainers.network import NetworkTrainer

logger = logging.getLogger(__name__)


class UniSegTrainer(NetworkTrainer[ServedUniSeg]):
    """Training of UniSeg as MONAI Label runs it.

    Args:
        served, unlearnt: see `NetworkTrainer`; it must be better than One-Prompt.
        studies: gives the study list's final labels.
        settings: the numbers of a training.
        sizes: of a network that begins at random.
        lists: folders of further lists to learn from, each a task by the folder's name.
    """

    def __init__(
        self,
        served: ServedUniSeg,
        unlearnt: Callable[[Collection[str]], Path],
        studies: Callable[[], list[LabelledStudy]],
        settings: UniSegSettings = UniSegSettings(),
        sizes: UniSegConfig = UniSegConfig.small(),
        lists: Sequence[Path] = (),
    ) -> None:
        options = {"apart": settings.apart, "keep": settings.keep}
        description = "Trains one 3-D network for all structures of the list"
        super().__init__(served, unlearnt, description, studies, settings, options)
        self._sizes, self._lists = sizes, tuple(lists)

    def _prepared(self, request: dict[str, Any], options: TrainingOptions, settings: UniSegSettings) -> UniSegSettings:
        flags = options.model_dump(include={"apart", "keep"}, exclude_none=True)
        rate = options.rate(settings.rate)
        return dataclasses.replace(settings, rate=rate, batch=request["train_batch_size"], **flags)

    def _parts(self, studies: list[LabelledStudy]) -> list[LabelledStudy]:
        return enough_studies(studies, "UniSeg")

    def _made(self, context: Context, share: tuple[int, int]) -> UniSegTraining:
        request: Mapping[str, Any] = context.request
        # Where memory ran out, MONAI Label's loader joins fewer patches to a step than was asked for
        settings = dataclasses.replace(request["settings"], batch=request["train_batch_size"])
        studies: Sequence[LabelledStudy] = context.datalist
        return UniSegTraining(
            studies,
            settings,
            folder=self.models,
            sizes=self._sizes,
            start=self._served.start,
            others={folder.name: read_list(folder) for folder in self._lists},
            parent=load_network(request["parent"]),
            device=str(context.device),
            share=share,
        )

    def _conclude(self, request: Mapping[str, Any]) -> None:
        """Offer it if it is better; else it stays a version that was not published."""
        course = self.course
        assert isinstance(course, UniSegTraining)
        better, reason = self._whole_verdict()
        start = self._served.start
        record = self._record(PUBLISHED if better else CANDIDATE, reason, start.hash if start else "")
        licence = {"licence": start.licence} if start and start.licence else {}
        model = course.model({"created": round(time.time(), 3), **record, **licence})
        if better:
            self._served.publish(model)
        else:
            self._served.versions.add(model.network, model.provenance)
        logger.info("%s: %s", record["state"], reason)
        update_record(self.models, **record)
