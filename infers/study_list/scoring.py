"""How good the automatic masks were: Dice and surface distance of each structure against the label a person submitted.

MONAI Label's own method multiplies label values, which is right for a single label only. Results are in the automatic
mask's record, under `score`; a final label that is a mask accepted unseen says nothing and is left out.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod

from infers.errors import ClientError, NotFound
from infers.store.datastore import ACCEPTED, AUTOMATIC, FINAL
from infers.study_list.studies import CHECKED, Studies, is_ours
from lib.imaging.images import ImageError, read_label
from lib.imaging.metrics import score

logger = logging.getLogger(__name__)

SCORE = "score"
Scores = dict[str, dict[str, float]]  # structure to dice (0 to 1) and surface_mm


class DiceScoring(ScoringMethod):
    """`dice`: every study that has an automatic mask and a label that a person submitted."""

    def __init__(self, studies: Studies) -> None:
        super().__init__("Dice and surface distance of the automatic masks against the submitted labels, by structure")
        self._studies = studies

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """{study: scores}, and their means by structure under `mean`."""
        found = {}
        for image_id in self._studies.store.list_images():
            if scores := score_study(self._studies, image_id):
                found[image_id] = scores
        names = sorted({name for scores in found.values() for name in scores})
        means = {
            name: {
                key: round(float(np.mean([scores[name][key] for scores in found.values() if name in scores])), 4)
                for key in ("dice", "surface_mm")
            }
            for name in names
        }
        return {**found, "mean": means}


def score_study(studies: Studies, image_id: str) -> Scores:
    """Score a study's automatic mask and record it; {} where there is nothing to compare, or it cannot be read."""
    store = studies.store
    try:
        final, mask = store.record(image_id, FINAL), store.record(image_id, AUTOMATIC)
        if final is None or mask is None or final.info.get(ACCEPTED) or not is_ours(mask.info):
            return {}
        image = studies.image(image_id)
        truth, answer = read_label(final.path, image), read_label(mask.path, image)
        made = mask.info["params"].get("label_names") or {}
        scores: Scores = {}
        for name, value in (final.info.get(CHECKED) or {}).items():
            if (truth == value).any():
                found = answer == made[name] if name in made else np.zeros(truth.shape, bool)
                result = score(found, truth == value, image.spacing)
                scores[name] = {"dice": round(result.dice / 100, 4), "surface_mm": round(result.surface, 3)}
        store.update_label_info(image_id, AUTOMATIC, {SCORE: scores})
    except (ClientError, NotFound, ImageError, OSError) as error:
        logger.warning("%s was not scored: %s", image_id, error)
        return {}
    return scores
