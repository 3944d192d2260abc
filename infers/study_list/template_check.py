"""A check of the templates before the job spends its time: `lib.quality.template_check` on a study list."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from infers.errors import NotFound
from infers.label_records import AUTOMATIC
from infers.study_list.studies import Studies
from lib.imaging.images import ImageError
from lib.inference.control import Control
from lib.quality.template_check import TemplateReport, most_typical, trial_studies, typicality

logger = logging.getLogger(__name__)

MOST_DESCRIBED = 100  # studies that stand for the list


class TemplateCheck:
    """The check of one list's templates; the trial's masks are kept, so that no work is done twice.

    Args:
        studies: the list.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._lock = threading.Lock()
        self._seen = ""
        self._trials: list[str] = []
        self._result = TemplateReport()

    def examine(self, control: Control) -> None:
        """Look at the templates, unless that was done since they last changed; segments up to three studies."""
        state, templates = self._studies.state(), list(self._studies.templates())
        if state == self._seen or not templates:
            return
        descriptors = self._describe(templates, control)
        pending = self._studies.pending()
        self._trials = trial_studies(descriptors, templates, pending)
        typical = {id: share for id, share in typicality(descriptors).items() if id in templates}
        self._keep(TemplateReport(typical, most_typical(descriptors, templates)))
        for image_id in self._trials:
            try:
                stamp = self._studies.store.image_stamp(image_id)
                image = self._studies.image(image_id)
                prediction = self._studies.segment(image_id, image, control=control)
                self._studies.store_automatic(image_id, image, prediction, stamp)
            except (ImageError, NotFound, OSError, ValueError) as error:  # the job will say so
                logger.info("the trial leaves %s out: %s", image_id, error)
        self._keep(TemplateReport(typical, most_typical(descriptors, templates), *self._tried()))
        self._seen = state

    def status(self) -> dict[str, Any]:
        """As GET /oneprompt/status tells it."""
        with self._lock:
            result = self._result
        return {"typical": result.typical, "better": result.better, "copies": result.views, "trial": result.trial,
                "warnings": result.warnings}  # fmt: skip

    def _tried(self) -> tuple[dict[str, float], dict[str, float]]:
        """What the trial's masks say: Dice on copies by structure, predicted Dice by study."""
        views: dict[str, list[float]] = {}
        trial = {}
        for image_id in self._trials:
            mask = self._studies.store.label(image_id, AUTOMATIC)
            made = mask.record.provenance if mask else None
            if made is None:
                continue
            for name, features in made.features.items():
                views.setdefault(name, []).extend([features["copies"]] if "copies" in features else [])
            predicted = self._studies.quality.lowest(made)
            if predicted is not None:
                trial[image_id] = round(predicted, 4)
        return {name: round(float(np.mean(dices)), 4) for name, dices in views.items() if dices}, trial

    def _describe(self, templates: list[str], control: Control) -> dict[str, np.ndarray]:
        """Descriptors of the templates and of studies spread evenly over the list."""
        listed = self._studies.store.list_images()
        step = max(1, -(-len(listed) // MOST_DESCRIBED))
        wanted = list(dict.fromkeys([*templates, *listed[::step]]))
        descriptors = {}
        for image_id in wanted:
            control.advance(0.0)
            try:
                descriptors[image_id] = self._studies.descriptors.of(image_id)
            except (ImageError, NotFound, OSError) as error:
                logger.info("%s is left out: %s", image_id, error)
        return descriptors

    def _keep(self, result: TemplateReport) -> None:
        with self._lock:
            self._result = result
