"""What corrected studies teach about the masks that nobody checked (`lib.quality.calibration`).

Wherever a person submitted a label and an automatic mask of the study is still there, the two say how good that mask
really was. Templates that never had a mask of their own are segmented by the others, once, for the same purpose. A mask
that was accepted as it was teaches nothing: it would agree with itself.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infers.records import read_record
from infers.store.datastore import ACCEPTED, AUTOMATIC, FINAL, LabelRecord
from infers.study_list.studies import Studies, is_ours
from lib.imaging.files import write_atomically
from lib.imaging.images import ImageError, read_label
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.quality.calibration import Calibration
from lib.quality.estimate import Quality, recorded
from lib.quality.estimator import Estimator

logger = logging.getLogger(__name__)

MOST_CASES = 200  # corrected studies that are looked at, the newest first
MOST_CHECKS = 20  # templates that are segmented by the others

Case = Mapping[str, tuple[float, float]]  # structure to estimate and true Dice


class Corrections:
    """The corrected cases of one study list; safe to share between threads.

    Args:
        studies: the list.
        path: where the checks of templates are kept; a cache that may be deleted.
    """

    def __init__(self, studies: Studies, path: Path, estimator: Estimator | None = None) -> None:
        self._studies, self._path, self._estimator = studies, path, estimator or Estimator.shipped()
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Case] = {}  # by checksums of mask and label
        self._calibrations: dict[str, Calibration] = {}
        self._checks: dict[str, dict[str, Any]] = _read(path)

    def quality(self, params: Any) -> dict[str, Quality]:
        """What is expected of a mask with this record today; of a record without estimate what it says itself."""
        with self._lock:
            known = self._calibrations
        return {name: one.calibrated(known[name]) if name in known else one for name, one in recorded(params).items()}

    def cases(self) -> dict[str, int]:
        """How many corrected cases the estimates of each structure rest on."""
        with self._lock:
            return {name: calibration.cases for name, calibration in self._calibrations.items()}

    def learn(self, control: Control) -> None:
        """Look at labels that came since the last time; reads files, so not for a request."""
        known: dict[tuple[str, str], Case] = {}
        for image_id in self._newest():
            control.advance(0.0)
            final, mask = self._pair(image_id)
            if final is None or mask is None:
                continue
            key = (mask.checksum, final.checksum)
            try:
                if key not in self._known:  # kept at once: who is stopped here goes on from here the next time
                    self._known[key] = self._case(image_id, final, mask)
                known[key] = self._known[key]
            except (ImageError, OSError, ValueError) as error:
                logger.warning("the correction of %s teaches nothing: %s", image_id, error)
        self._known = known
        pairs: dict[str, list[tuple[float, float]]] = {}
        for case in [*known.values(), *(check["case"] for check in self._current().values())]:
            for name, pair in case.items():
                pairs.setdefault(name, []).append((float(pair[0]), float(pair[1])))
        with self._lock:
            self._calibrations = {name: Calibration.of(own, self._estimator) for name, own in pairs.items()}

    def check_templates(self, control: Control) -> None:
        """Segment templates that never had a mask by the other templates, and learn from that."""
        self.learn(control)
        templates = self._studies.templates()
        if len(templates) < 2:
            return
        current = self._current()
        for image_id, checksum in sorted(templates.items()):
            if len(current) >= MOST_CHECKS:
                break
            if image_id in current or self._pair(image_id)[1] is not None:
                continue
            image = self._studies.image(image_id)
            # Not by a specialist, which has learnt this very label
            prediction = self._studies.segment(image_id, image, control=control, with_specialist=False)
            template = self._studies.bank.get(image_id)
            case = _compared(template, prediction.mask, prediction.labels, prediction.provenance)
            current[image_id] = {"label": checksum, "case": case}
            self._checks = current
            write_atomically(self._path, json.dumps(current).encode())
            self.learn(control)

    def _current(self) -> dict[str, dict[str, Any]]:
        """The checks of templates whose labels are still the same."""
        templates = self._studies.templates()
        return {i: check for i, check in self._checks.items() if templates.get(i) == check["label"]}

    def _newest(self) -> list[str]:
        labelled = [(self._studies.store.tags(i).get(FINAL, {}), i) for i in self._studies.templates()]
        labelled.sort(key=lambda pair: -float(pair[0].get("ts", 0)))
        return [image_id for info, image_id in labelled if ACCEPTED not in info][:MOST_CASES]

    def _pair(self, image_id: str) -> tuple[LabelRecord | None, LabelRecord | None]:
        """The person's label, and the automatic mask if it tells what it was made of."""
        final, mask = (self._studies.store.record(image_id, tag) for tag in (FINAL, AUTOMATIC))
        usable = mask is not None and is_ours(mask.info) and "quality_estimate" in mask.info["params"]
        return final, mask if usable else None

    def _case(self, image_id: str, final: LabelRecord, mask: LabelRecord) -> Case:
        template = self._studies.bank.get(image_id)
        params = mask.info["params"]
        return _compared(template, read_label(mask.path, template.image), params.get("label_names") or {}, params)


def _compared(template: Template, mask: np.ndarray, values: Mapping[str, int], params: Mapping[str, Any]) -> Case:
    """Estimate and true Dice of the structures that were found and that the person painted too."""
    case = {}
    for name, one in recorded(params).items():
        if one.estimate is not None and name in template.painted and name in values:
            found, truth = mask == values[name], template.prompt_of(name).mask
            assert truth is not None  # of what is painted
            total = int(found.sum()) + int(truth.sum())
            case[name] = (one.estimate, 2 * int((found & truth).sum()) / total)
    return case


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = read_record(path)
        return {i: c for i, c in found.items() if {"label", "case"} <= set(c)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s is not readable and is made anew: %s", path, error)
        return {}
