"""UniSeg for the structures that it learnt from a study list, and another segmenter for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lib.imaging.images import Image
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.beside import Beside
from lib.segmenters.contract import Prediction, Segmenter
from lib.segmenters.registry import UNISEG_MODEL
from lib.segmenters.uniseg.segmenter import UniSegSegmenter


class UniSegBeside(Beside):
    """A `lib.segmenters.contract.Segmenter` of two: prompts, and structures that UniSeg does not know, go to the other.

    Args:
        other: answers by templates.
        uniseg: trained on the list's own labels, for images of one channel.
    """

    model = UNISEG_MODEL

    def __init__(self, other: Segmenter, uniseg: UniSegSegmenter) -> None:
        super().__init__(other, uniseg.fingerprint)
        self.uniseg = uniseg

    def segment(
        self, image: Image, templates: Sequence[Template], labels: Mapping[str, int], *, control: Control = Control()
    ) -> Prediction:
        """See `Segmenter`; what both claim is UniSeg's. A flat image is the other's alone."""
        known = {name: index for name, index in labels.items() if name in self._structures}
        rest = {name: index for name, index in labels.items() if name not in known}
        if not known or image.array.ndim != 3 or 1 in image.array.shape:
            return self.other.segment(image, templates, labels, control=control)
        own = self.uniseg.segment(image, (), known, control=control.part(0, 0.5 if rest else 1))
        if not rest:
            return own
        rest_answer = self.other.segment(image, templates, rest, control=control.part(0.5, 1))
        mask = np.where(own.mask > 0, own.mask, rest_answer.mask).astype(
            np.promote_types(own.mask.dtype, rest_answer.mask.dtype)
        )
        used = {"weights": own.provenance["weights"], "tasks": own.provenance["tasks"], "structures": sorted(known)}
        record = {**rest_answer.provenance, "model": self.model.name, "uniseg": used}
        return Prediction(mask, dict(labels), rest_answer.quality, record)

    @property
    def _structures(self) -> set[str]:
        return {name for task in self.uniseg.model.tasks if len(task.channels) == 1 for name in task.structures}
