"""Stand-ins for the predictor, so that what surrounds it is tested in milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from infers.label_records import LabelRecord, Provenance
from infers.names import LabelMap
from infers.store.datastore import StudyStore
from infers.study_list.descriptors import Descriptors
from infers.study_list.studies import MODEL, Studies
from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, PromptError
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.contract import Capabilities, Prediction, Segmenter
from lib.segmenters.second_opinion import SecondOpinion


class FakePredictor:
    """Answers with everything above the grey value 3, and can be made to wait or to fail."""

    capabilities = Capabilities("oneprompt", 2)

    def __init__(self, weights_hash: str = "first") -> None:
        self.weights_hash = weights_hash
        self.asked: list[int] = []  # number of templates of each call
        self.fails: Callable[[Image], bool] = lambda image: False
        self.between_batches: Callable[[], None] = lambda: None

    @property
    def fingerprint(self) -> str:
        return self.weights_hash

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
        second: SecondOpinion | None = None,
    ) -> Prediction:
        self.asked.append(len(templates))
        for done in range(3):
            self.between_batches()
            control.advance(done / 3)
        if self.fails(image):
            raise ValueError("this image is bad: mend it")
        mask = np.where(image.array > 3, next(iter(labels.values())), 0).astype(np.uint8)
        for name, value in labels.items():
            if second and name in second.logits:
                mask[mask == value] = 0
                mask[second.stack.restored(second.logits[name]) > 0] = value
        return Prediction(
            mask, dict(labels), {}, {"templates": [t.id for t in templates], "weights": self.weights_hash}
        )

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
        raise PromptError("this model takes no prompts")


class FakeClosedSet(FakePredictor):
    """Knows some structures, and takes no templates."""

    def __init__(self, *vocabulary: str) -> None:
        super().__init__()
        self.capabilities = Capabilities("uniseg", 3, most_templates=0, vocabulary=vocabulary)


class StoppedWhen(Control):
    """Stops the work when a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    @property
    def stopped(self) -> bool:
        return self._condition()


def make_studies(folder: str, predictor: Segmenter, *configured: str, most: int | None = 4) -> Studies:
    """Studies of a folder with that predictor."""
    store = StudyStore(folder)
    looks = Descriptors(store, store.state / "looks.npz")
    return Studies(store, LabelMap(store.state / "labels.json", configured), lambda: predictor, most, looks)


def mask_record(model: str = MODEL, **params: Any) -> LabelRecord:
    """The record of a mask that a model made."""
    return LabelRecord(provenance=Provenance.from_json(params, model))


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for a condition that another thread makes true."""
    ticking = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        ticking.wait(0.01)
    raise AssertionError("waited in vain")
