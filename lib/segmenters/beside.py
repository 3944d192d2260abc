"""One model beside another, where each answers for what it knows best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.contract import Capabilities, Prediction, Segmenter
from lib.segmenters.fingerprints import JOIN
from lib.segmenters.registry import Model


class Beside(ABC):
    """A `lib.segmenters.contract.Segmenter` of two: prompts are for the other one, `segment` says who does what.

    Args:
        other: answers by templates and prompts.
        fingerprint: of the model beside it.
    """

    model: ClassVar[Model]

    def __init__(self, other: Segmenter, fingerprint: str) -> None:
        self.other = other
        self.fingerprint = JOIN.join((other.fingerprint, fingerprint))

    @property
    def capabilities(self) -> Capabilities:
        """The other's under a name of its own."""
        return replace(self.other.capabilities, name=self.model.name)

    @abstractmethod
    def segment(
        self, image: Image, templates: Sequence[Template], labels: Mapping[str, int], *, control: Control = Control()
    ) -> Prediction:
        """See `Segmenter`."""

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
