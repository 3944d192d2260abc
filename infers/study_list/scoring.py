"""How good the automatic masks were: Dice and surface distance of each structure against the label a person submitted.

MONAI Label's own method multiplies label values, which is right for a single label only. Results are in the automatic
mask's record, under `score`; a final label that is a mask accepted unseen says nothing and is left out.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, StructureScore
from infers.study_list.studies import Studies
from lib.imaging.images import ImageError, read_label
from lib.imaging.metrics import score

logger = logging.getLogger(__name__)


class DiceScoring(ScoringMethod):
    """`dice`: every study that has an automatic mask and a label that a person submitted."""

    def __init__(self, studies: Studies) -> None:
        super().__init__("Dice and surface distance of the automatic masks against the submitted labels, by structure")
        self._studies = studies

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """{study: scores}, and their means by structure under `mean`."""
        by_study = {}
        for image_id in self._studies.store.list_images():
            if scores := score_study(self._studies, image_id):
                by_study[image_id] = {name: asdict(score) for name, score in scores.items()}
        names = sorted({name for scores in by_study.values() for name in scores})
        means = {
            name: {
                key: round(float(np.mean([scores[name][key] for scores in by_study.values() if name in scores])), 4)
                for key in ("dice", "surface_mm")
            }
            for name in names
        }
        return {**by_study, "mean": means}


def score_study(studies: Studies, image_id: str) -> dict[str, StructureScore]:
    """Score a study's automatic mask and record it; {} where there is nothing to compare, or it cannot be read."""
    store = studies.store
    try:
        final, own = store.label(image_id, FINAL), studies.own_mask(image_id)
        if final is None or own is None or not final.record.submitted:
            return {}
        mask, made = own
        image = studies.image(image_id)
        truth, answer = read_label(final.path, image), read_label(mask.path, image)
        scores: dict[str, StructureScore] = {}
        for name, value in (final.record.structures or {}).items():
            if (truth == value).any():
                answered = answer == made.label_names[name] if name in made.label_names else np.zeros(truth.shape, bool)
                result = score(answered, truth == value, image.spacing)
                scores[name] = StructureScore(round(result.dice / 100, 4), round(result.surface, 3))
        store.amend(image_id, AUTOMATIC, lambda record: replace(record, score=scores))
    except (ClientError, NotFound, ImageError, OSError) as error:
        logger.warning("%s was not scored: %s", image_id, error)
        return {}
    return scores
