"""The `oneprompt` trainer: fine-tunes the served network on the study list's final labels.

Better weights are published as a version, in one rename; others are kept as a candidate.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.tasks.train.basic_train import Context

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import DECISION, ListPromptSeg
from lib.finetuning.oneprompt import FineTune
from lib.finetuning.options import TrainingOptions
from lib.finetuning.training_record import update_record
from lib.finetuning.tuning import FineTuning
from lib.finetuning.versions import CANDIDATE, PUBLISHED, Versions
from lib.learning.adapters import MODES
from lib.networks.checkpoints import load_network, weights_hash
from trainers.course import CourseTrainer

logger = logging.getLogger(__name__)


class OnePromptTrainer(CourseTrainer):
    """Fine-tuning as MONAI Label runs it.

    Args:
        models: folder of runs, statistics and versions.
        versions: where candidates are kept and published.
        provenance: gives what is recorded with them beside the training itself.
        served: gives the weights file that is served now.
        studies: gives the study list's final labels.
        tuning: the numbers of a fine-tuning.
        promptseg: gives what segments the list beside the served weights; None where they segment it alone.
    """

    def __init__(
        self,
        models: Path,
        versions: Versions,
        provenance: Callable[[], Mapping[str, Any]],
        served: Callable[[], Path],
        studies: Callable[[], list[LabelledStudy]],
        tuning: FineTuning = FineTuning(),
        promptseg: Callable[[], ListPromptSeg | None] = lambda: None,
    ) -> None:
        modes = [tuning.mode, *(mode for mode in MODES if mode != tuning.mode)]
        super().__init__(models, "Fine-tunes One-Prompt on the saved labels", studies, tuning, {"mode": modes})
        self.versions = versions
        self._provenance: Callable[[], Mapping[str, Any]] | None = provenance
        self._served: Callable[[], Path] | None = served
        self._promptseg: Callable[[], ListPromptSeg | None] | None = promptseg

    def __getstate__(self) -> dict[str, Any]:
        """Without the server's parts."""
        return {**super().__getstate__(), "_served": None, "_provenance": None, "_promptseg": None}

    def _prepared(self, request: dict[str, Any], options: TrainingOptions, settings: FineTuning) -> FineTuning:
        mode = options.mode or settings.mode
        rates = {**settings.rates, mode: options.rate(settings.rates[mode])}
        assert self._served is not None
        assert self._provenance is not None
        assert self._promptseg is not None
        request["parent"], request["provenance"] = str(self._served()), dict(self._provenance())
        request["promptseg"] = self._promptseg()
        update_record(self.models, mode=mode)
        return dataclasses.replace(settings, mode=mode, rates=rates)

    def _made(self, context: Context, share: tuple[int, int]) -> FineTune:
        request = context.request
        parent, settings, promptseg = load_network(request["parent"]), request["settings"], request["promptseg"]
        return FineTune(parent, context.datalist, settings, str(context.device), share=share, promptseg=promptseg)

    def _conclude(self, request: Mapping[str, Any]) -> None:
        """Publish the candidate if it is whole and better than its parent and that is still what is served."""
        course, parent = self.course, Path(request["parent"])
        assert isinstance(course, FineTune)
        better, reason = self._whole_verdict()
        before = weights_hash(course.parent)
        # The parent's file may have been replaced while this one learnt
        now = weights_hash(load_network(parent)) if parent.exists() else ""
        if better and (now != before or (parent != self.versions.published and self.versions.published.exists())):
            better, reason = False, f"other weights were published meanwhile; it was {reason}"
        # Also of a candidate, which a person may choose to serve
        list_segmenter = {DECISION: course.comparison.decision()} if course.comparison else {}
        if better and list_segmenter:
            reason = f"{reason}; {list_segmenter[DECISION]['reason']}"
        own = self._record(PUBLISHED if better else CANDIDATE, reason, before)
        learnt = [course.studies[place].id for place in course.phases[-1].training]
        record = {**request["provenance"], **own, **list_segmenter, "mode": course.settings.mode, "learnt": learnt}
        name = self.versions.add(course.network, record)
        if better:
            self.versions.publish(name)
        logger.info("%s: %s (%s)", record["state"], name, reason)
        values = {key: record[key] for key in ("state", "reason", "before", "after", "examined_on", "seconds")}
        update_record(self.models, version=name, parent=before, **values)
