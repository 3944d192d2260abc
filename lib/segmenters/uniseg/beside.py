"""UniSeg for the structures that it learnt from a study list, and another segmenter for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.contract import Capabilities, Prediction, Segmenter
from lib.segmenters.registry import UNISEG_MODEL
from lib.segmenters.uniseg.segmenter import UniSegSegmenter

JOIN = "+"  # between the fingerprints of two models


class UniSegBeside:
    """A `lib.segmenters.contract.Segmenter` of two: prompts, and structures that UniSeg does not know, go to the other.

    Args:
        other: answers by templates.
        uniseg: trained on the list's own labels, for images of one channel.
    """

    def __init__(self, other: Segmenter, uniseg: UniSegSegmenter) -> None:
        self.other, self.uniseg = other, uniseg

    @property
    def capabilities(self) -> Capabilities:
        """The other's under the name of UniSeg."""
        return replace(self.other.capabilities, name=UNISEG_MODEL.name)

    @property
    def fingerprint(self) -> str:
        """Of both."""
        return JOIN.join((self.other.fingerprint, self.uniseg.fingerprint))

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
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
        record = {**rest_answer.provenance, "model": self.capabilities.name, "uniseg": used}
        return Prediction(mask, dict(labels), rest_answer.quality, record)

    def interact(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        *,
        axis: int | None = None,
        only_slice: bool = False,
        control: Control = Control(),
    ) -> Prediction:
        """See `Segmenter`."""
        return self.other.interact(image, prompts, labels, axis=axis, only_slice=only_slice, control=control)

    @property
    def _structures(self) -> set[str]:
        return {name for task in self.uniseg.model.tasks if len(task.channels) == 1 for name in task.structures}
