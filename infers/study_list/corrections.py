"""What corrected studies teach about the masks that nobody checked (`lib.quality.calibration`).

Wherever a person submitted a label and an automatic mask of the study is still there, the two say how good that mask
really was. Templates that never had a mask of their own are segmented by the others, once, for the same purpose. A mask
that was accepted as it was teaches nothing: it would agree with itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infers.label_records import FINAL, Provenance
from infers.records import read_record
from infers.store.datastore import StoredLabel
from infers.study_list.studies import Studies
from lib.imaging.files import KeptFile, Write, write_atomically
from lib.imaging.images import ImageError, read_label
from lib.imaging.metrics import dice
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.quality.calibration import Calibration
from lib.quality.estimator import Estimator

logger = logging.getLogger(__name__)

MOST_CASES = 200  # corrected studies that are looked at, the newest first
MOST_CHECKS = 20  # templates that are segmented by the others

Case = Mapping[str, tuple[float, float]]  # structure to estimate and true Dice


class Corrections:
    """The corrected cases of one study list, for its `PredictedQuality`.

    Args:
        studies: the list.
        path: where the checks of templates are kept; a cache that may be deleted.
        estimator: whose estimates the masks have; without one there are none to learn about.
        write: replaces the file.
    """

    def __init__(
        self, studies: Studies, path: Path, estimator: Estimator | None, write: Write = write_atomically
    ) -> None:
        self._studies, self._estimator = studies, estimator
        self._file = KeptFile(path, _load, lambda checks: json.dumps(checks).encode(), write)
        self._known: dict[tuple[str, str], Case] = {}  # by checksums of mask and label
        self._checks = self._kept()

    def learn(self, control: Control) -> None:
        """Look at labels that came since the last time; reads files, so not for a request."""
        known: dict[tuple[str, str], Case] = {}
        for image_id in self._newest():
            control.advance(0.0)
            final, own = self._studies.store.label(image_id, FINAL), self._estimated(image_id)
            if final is None or own is None:
                continue
            mask, made = own
            key = (mask.checksum, final.checksum)
            try:
                if key not in self._known:  # kept at once: who is stopped here goes on from here the next time
                    self._known[key] = self._case(image_id, mask, made)
                known[key] = self._known[key]
            except (ImageError, OSError, ValueError) as error:
                logger.warning("the correction of %s teaches nothing: %s", image_id, error)
        self._known = known
        pairs: dict[str, list[tuple[float, float]]] = {}
        for case in [*known.values(), *(check["case"] for check in self._current().values())]:
            for name, pair in case.items():
                pairs.setdefault(name, []).append((float(pair[0]), float(pair[1])))
        if self._estimator is not None:
            estimator = self._estimator
            self._studies.quality.calibrate({name: Calibration.of(own, estimator) for name, own in pairs.items()})

    def check_templates(self, control: Control) -> None:
        """Segment templates that never had a mask by the other templates, and learn from that."""
        self.learn(control)
        templates = self._studies.painted()
        if len(templates) < 2:
            return
        current = self._current()
        for image_id, checksum in sorted(templates.items()):
            if len(current) >= MOST_CHECKS:
                break
            if image_id in current or self._estimated(image_id):
                continue
            image = self._studies.image(image_id)
            # Not by a list-specific U-Net, which has learnt this very label
            prediction = self._studies.segment(image_id, image, control=control, by_templates_alone=True)
            template = self._studies.bank.get(image_id)
            made = Provenance.from_json(prediction.provenance)
            case = _compared(template, prediction.mask, prediction.labels, made)
            current[image_id] = {"label": checksum, "case": case}
            self._checks = current
            self._file.write(current)
            self.learn(control)

    def _kept(self) -> dict[str, dict[str, Any]]:
        try:
            return self._file.read() or {}
        except OSError as error:
            logger.warning("every template is checked again: %s", error)
            return {}

    def _current(self) -> dict[str, dict[str, Any]]:
        """The checks of templates whose labels are still the same."""
        templates = self._studies.painted()
        return {i: check for i, check in self._checks.items() if templates.get(i) == check["label"]}

    def _newest(self) -> list[str]:
        """Studies with a label that a person submitted."""
        finals = {i: self._studies.store.records(i).get(FINAL) for i in self._studies.painted()}
        submitted = {i: final.saved or 0 for i, final in finals.items() if final and final.submitted}
        return sorted(submitted, key=lambda image_id: -submitted[image_id])[:MOST_CASES]

    def _estimated(self, image_id: str) -> tuple[StoredLabel, Provenance] | None:
        """The study's automatic mask if its record has the estimate that was made of it."""
        own = self._studies.own_mask(image_id)
        return own if own and "quality_estimate" in own[1].details else None

    def _case(self, image_id: str, mask: StoredLabel, made: Provenance) -> Case:
        template = self._studies.bank.get(image_id)
        return _compared(template, read_label(mask.path, template.image), made.label_names, made)


def _compared(template: Template, mask: np.ndarray, values: Mapping[str, int], made: Provenance) -> Case:
    """Estimate and true Dice of the structures that were found and that the person painted too."""
    case = {}
    for name, one in made.quality.items():
        if one.estimate is not None and name in template.painted and name in values:
            answer, truth = mask == values[name], template.prompt_of(name).mask
            assert truth is not None  # of what is painted
            case[name] = (one.estimate, dice(answer, truth))
    return case


def _load(path: Path) -> dict[str, dict[str, Any]]:
    return {i: check for i, check in read_record(path).items() if {"label", "case"} <= set(check)}
