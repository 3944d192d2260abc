"""A study list and a model for the infer tasks, that answer at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infers.names import LabelMap
from infers.serving.priority_lock import PriorityLock
from infers.store.datastore import StoredLabel, StudyStore
from infers.study_list.acceptance import Acceptance
from infers.study_list.pending_results import PendingResults
from infers.tasks.oneprompt import Engine
from lib.imaging.images import Image, read_image
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.inference.templates import Template, TemplateError
from lib.segmenters.contract import Capabilities, Prediction, Segmenter
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from tests.samples import organ_volume, write_nifti


class FakeStudies:
    """Every study looks as `answer` says; images are files of a folder."""

    def __init__(self, folder: Path, answer: np.ndarray | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._answer = folder, answer
        self.store = StudyStore(str(folder))

    def image(self, image_id: str) -> Image:
        return read_image(self._folder / f"{image_id}.nii.gz")

    def automatic(self, image_id: str, image: Image, older_weights: bool = False) -> StoredLabel | None:
        return None

    def segment(
        self,
        image_id: str | None,
        image: Image,
        only: Mapping[str, int] | None = None,
        control: Control = Control(),
        model: Segmenter | None = None,
    ) -> Prediction:
        answer = np.zeros(image.array.shape, np.uint8) if self._answer is None else self._answer
        return Prediction(answer, dict(only or {}), {}, {})

    def templates(self) -> dict[str, str]:
        return {}

    def count_without_final(self) -> int:
        return 0


class Clicked:
    """Marks the voxels that were clicked."""

    capabilities = Capabilities("oneprompt", 2)
    fingerprint = "clicked"

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
    ) -> Prediction:
        raise TemplateError("this model takes clicks alone")

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
        mask = np.zeros(image.array.shape, np.uint8)
        for name, prompt in prompts.items():
            for point in prompt.foreground:
                mask[point] = labels[name]
        background = [prompt.background for prompt in prompts.values()][-1]
        return Prediction(mask, labels, {}, {"only_slice": only_slice, "background": background})


class FakeModel:
    """Serves that."""

    path = Path("weights.safetensors")
    segmenter = Clicked()


@dataclass
class FakeListUNet:
    """Knows some structures."""

    structures: tuple[str, ...] = ()


@dataclass
class FakeServedListUNet:
    """Offers that, or nothing."""

    current: FakeListUNet | None
    path: Path = Path("list_unet.safetensors")

    def status(self) -> dict[str, Any]:
        return {"structures": list(self.current.structures), "won_from": 6} if self.current else {}


@dataclass
class FakeServedUniSeg:
    """Offers a model, or nothing."""

    model: UniSegModel | None
    segmenter: UniSegSegmenter | None
    file: Path = Path("uniseg.safetensors")


def make_engine(folder: Path, *configured: str, answer: np.ndarray | None = None) -> Engine:
    """What the tasks share, with a study list in a folder."""
    studies, accepted = FakeStudies(folder / "studies", answer), print
    labels = LabelMap(folder / "labels.json", configured)
    learn: Callable[[list[str]], dict[str, int]] = labels.learn
    acceptance = Acceptance(studies.store, PendingResults(folder / "offers"), 60, accepted, learn)
    return Engine(studies, labels, FakeModel(), PriorityLock(), acceptance)


def make_engine_of_one_study(folder: Path) -> Engine:
    """The same with one study `s0` on the list; the model marks what was clicked."""
    (folder / "studies").mkdir()
    write_nifti(folder / "studies" / "s0.nii.gz", organ_volume(0)[0])
    return make_engine(folder)
