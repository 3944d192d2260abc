"""The `promptseg` trainer: fine-tunes the PromptSeg that is offered on the study list's final labels.

Better weights are published beside the list; others are kept as a candidate.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.tasks.train.basic_train import Context

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.options import TrainingOptions
from lib.finetuning.phases import enough_studies
from lib.finetuning.promptseg import TUNING, PromptSegTuning
from lib.finetuning.served_promptseg import BASE, TunedPromptSeg
from lib.finetuning.training_record import update_record
from lib.finetuning.tuning import FineTuning
from lib.finetuning.versions import CANDIDATE, PUBLISHED
from lib.networks.checkpoints import load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from trainers.course import CourseTrainer

logger = logging.getLogger(__name__)


class PromptSegTrainer(CourseTrainer):
    """Fine-tuning of PromptSeg as MONAI Label runs it.

    Args:
        tuned: where it is published; runs, statistics and the record are in the same folder.
        offered: gives the weights file that is offered now, and the hash of the configured weights; None for none.
        studies: gives the study list's final labels.
        tuning: the numbers of a fine-tuning.
    """

    def __init__(
        self,
        tuned: TunedPromptSeg,
        offered: Callable[[], tuple[Path, str] | None],
        studies: Callable[[], list[LabelledStudy]],
        tuning: FineTuning = TUNING,
    ) -> None:
        super().__init__(tuned.path.parent, "Fine-tunes PromptSeg on the saved labels", studies, tuning, {})
        self._tuned = tuned
        self._offered: Callable[[], tuple[Path, str] | None] | None = offered

    def __getstate__(self) -> dict[str, Any]:
        """Without the server's parts."""
        return {**super().__getstate__(), "_offered": None}

    def _prepared(self, request: dict[str, Any], options: TrainingOptions, settings: FineTuning) -> FineTuning:
        assert self._offered is not None
        offered = self._offered()
        if offered is None:
            raise ValueError(
                "PromptSeg is not offered, so that there are no weights to begin with: start the server with --conf "
                "promptseg FILE, or --conf model promptseg"
            )
        request["parent"], request[BASE] = str(offered[0]), offered[1]
        rates = {**settings.rates, settings.mode: options.rate(settings.rates[settings.mode])}
        return dataclasses.replace(settings, rates=rates)

    def _parts(self, studies: list[LabelledStudy]) -> list[LabelledStudy]:
        return enough_studies(studies, "PromptSeg")

    def _made(self, context: Context, share: tuple[int, int]) -> PromptSegTuning:
        request = context.request
        parent = load_network(request["parent"], "cpu", PromptSeg)
        return PromptSegTuning(parent, context.datalist, request["settings"], str(context.device), share=share)

    def _conclude(self, request: Mapping[str, Any]) -> None:
        """Publish it if it is whole and better than its parent and that is still what is offered."""
        course = self.course
        assert isinstance(course, PromptSegTuning)
        better, reason = self._whole_verdict()
        before = weights_hash(course.parent)
        published = self._tuned.of(request[BASE])  # may have changed while this one learnt
        if better and before != (weights_hash(published) if published else request[BASE]):
            better, reason = False, f"other weights were published meanwhile; it was {reason}"
        own = self._record(PUBLISHED if better else CANDIDATE, reason, before)
        record = {BASE: request[BASE], **own}
        if better:
            self._tuned.publish(course.network, record)
        else:
            self._tuned.versions.add(course.network, record)
        logger.info("%s: %s", own["state"], reason)
        update_record(self.models, **own)
