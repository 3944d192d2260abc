"""The MONAI Label tasks, all on one segmenter and one network in memory.

`oneprompt` answers from the templates (a copy of the stored mask where that is up to date), the others from what the
client prompts on the image itself. Clicks have two kinds of task because OHIF says which structure they are for only to
models of the type `vista3d`, and 3D Slicer lists only `deepgrow`. Answers go through `lib.imaging.images.write_label`,
not through MONAI Label's writer: that one drops the place of 2-D images and rounds NRRD directions.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from infers.errors import ClientError
from infers.guards import checked
from infers.names import LabelMap
from infers.serving.clients import client_control
from infers.serving.priority_lock import PriorityLock
from infers.store.datastore import StoredLabel
from infers.study_list.acceptance import Acceptance
from infers.study_list.labelled_studies import IMAGES_KEPT
from infers.study_list.recent_results import RecentResults
from infers.study_list.store import Store
from infers.study_list.studies import result_params
from infers.tasks.request import (
    USE_AS_TEMPLATE,
    AnswerForm,
    LabelMasks,
    Wanted,
    click_prompts,
    is_marked,
    one_structure_from_slicer,
    scribble_prompts,
    slice_axis,
    structures,
    whole_frame,
)
from lib.imaging.files import temporary_prefix
from lib.imaging.image_cache import ImageCache
from lib.imaging.images import LABEL_SUFFIXES, Image, label_bytes, read_label
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.quality.slice_errors import slice_errors
from lib.segmenters.contract import Prediction, Segmenter

QUICK = 1  # level of compression of a file that is sent and forgotten
CLIENT_AXIS = 2  # the k axis, through which both clients scroll their first view
NAMES = ("label", "selected_label_name")  # keys of a request that hold a structure's name
POINTS = "vista3d"  # a type that MONAI Label has no name for


class TaskStudies(Protocol):
    """What is needed of the study list (`infers.study_list.studies.Studies`)."""

    @property
    def store(self) -> Store: ...
    def image(self, image_id: str) -> Image: ...
    def automatic(self, image_id: str, image: Image, older_weights: bool = False) -> StoredLabel | None: ...
    def segment(
        self,
        image_id: str | None,
        image: Image,
        only: Mapping[str, int] | None = None,
        control: Control = Control(),
        model: Segmenter | None = None,
    ) -> Prediction: ...
    def templates(self) -> dict[str, str]: ...
    def count_without_final(self) -> int: ...


class TaskModel(Protocol):
    """What is needed of the served network (`infers.serving.model.ServedModel`)."""

    @property
    def path(self) -> Path: ...
    @property
    def segmenter(self) -> Segmenter: ...


@dataclass(frozen=True)
class Engine:
    """What the tasks share."""

    studies: TaskStudies
    labels: LabelMap
    model: TaskModel
    priority_lock: PriorityLock
    acceptance: Acceptance
    recent: RecentResults = field(default_factory=RecentResults)
    images: ImageCache = field(default_factory=lambda: ImageCache(IMAGES_KEPT))


class OnePromptTask(InferTask):
    """A task: reads the image, lets `predict` answer, and writes the answer as the client wants it."""

    def __init__(self, engine: Engine, type: str, dimension: int, description: str, **config: Any) -> None:
        super().__init__(type, {}, dimension, description, config)
        self.engine = engine

    def info(self) -> dict[str, Any]:
        """MONAI Label's description of the task; the labels are those known at this moment."""
        return {**super().info(), "labels": self.engine.labels.names}

    def is_valid(self) -> bool:
        """Always: weights were loaded at start."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """The weights file that is served."""
        return str(self.engine.model.path)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request: (path of a temporary mask file, what a client is told about it)."""
        started = time.monotonic()
        spelled = self.engine.labels.spelled
        request = {**request, **{key: spelled(str(request[key])) for key in NAMES if request.get(key)}}
        image = self.read(request)
        client_control().check()
        prediction = numbered_for(request, self.predict(request, image))
        client_control().check()
        params = result_params(prediction, self.engine.labels.names)
        params["centroids"] = {name: [round(x) for x in centre] for name, centre in prediction.centres.items()}
        if image.array.ndim == 3:
            errors = slice_errors(prediction.mask, prediction.labels, prediction.boxes, CLIENT_AXIS)
            params["slice_errors"] = errors
        params["latencies"] = {"total": round(time.monotonic() - started, 3)}
        return str(_write(prediction.mask, image, checked(AnswerForm, request).result_extension)), params

    def read(self, request: Mapping[str, Any]) -> Image:
        """The image of a request, whose grid the answer lies on."""
        return self.engine.images.read(request["image"], whole_frame(request))

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        """The answer to a request about an image."""
        raise NotImplementedError


class AutomaticTask(OnePromptTask):
    """`oneprompt`: every structure that has a template, nothing to click."""

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        return from_templates(self.engine, request, image)


class InteractiveTask(OnePromptTask):
    """A task whose prompts lie on the image itself; its result can be made a template."""

    def __init__(self, engine: Engine, type: str, dimension: int, description: str) -> None:
        # A single slice is no template of a volume, so the task for slices does not offer the option
        super().__init__(engine, type, dimension, description, **({USE_AS_TEMPLATE: False} if dimension == 3 else {}))

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        engine = self.engine
        prompts = {engine.labels.spelled(name): prompt for name, prompt in self.prompts(request, image).items()}
        labels = engine.labels.with_new(prompts)
        flat = self.dimension == 2 and image.array.ndim == 3
        marked = is_marked(request) and request.get("image_id")
        if marked and flat:
            raise ClientError(
                f"{USE_AS_TEMPLATE} needs a result for the whole volume, and this model says nothing about the slices "
                "that nobody clicked: use oneprompt_click (in OHIF oneprompt_points), or submit a label"
            )
        with engine.priority_lock.interactive():
            prediction = engine.model.segmenter.interact(
                image,
                prompts,
                labels,
                axis=slice_axis(request, CLIENT_AXIS) if flat else None,
                only_slice=flat,
                control=client_control(),
            )
        if request.get("image_id") and not flat:
            engine.recent.note(request["image_id"], prediction)
        if marked:
            engine.acceptance.put(request["image_id"], prediction, request.get("user", ""))
        return prediction

    def prompts(self, request: Mapping[str, Any], image: Image) -> dict[str, Prompt]:
        """The prompts of a request per structure."""
        raise NotImplementedError


class ClickTask(InteractiveTask):
    """`oneprompt_click` and `oneprompt_slice`: clicks and a box; an uploaded label is refined."""

    def prompts(self, request: Mapping[str, Any], image: Image) -> dict[str, Prompt]:
        previous = _uploaded(request, image, self.engine.labels)
        return click_prompts(request, image.array.shape, self.engine.labels.names, previous)


class PointsTask(ClickTask):
    """`oneprompt_points` and `oneprompt_points_slice`: OHIF's clicks together with the structure that they are for.

    OHIF lists these models where nothing is clicked too; there they answer as `oneprompt` does. With options set it
    sends the clicks of an earlier request there as well, but then for several structures.
    """

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        if "points" not in request or len(checked(Wanted, request).label_prompt) > 1:
            return from_templates(self.engine, request, image)
        return super().predict(request, image)


class ScribblesTask(InteractiveTask):
    """`oneprompt_scribbles`: strokes or whole masks in an uploaded label map."""

    def prompts(self, request: Mapping[str, Any], image: Image) -> dict[str, Prompt]:
        path = request.get("label_file")
        if not path:
            raise ClientError("oneprompt_scribbles needs a label map as the `label` part of the request, got none")
        labels = self.engine.labels
        return scribble_prompts(request, read_label(path, image), image.array.shape, labels.configured)


def tasks(engine: Engine) -> dict[str, InferTask]:
    """The tasks by name; the segmentation task first, because Slicer runs the first model that knows a label."""
    return {
        "oneprompt": AutomaticTask(
            engine, InferType.SEGMENTATION, 3, "Segments every structure that a saved study shows"
        ),
        "oneprompt_points": PointsTask(
            engine, POINTS, 3, "Segments the structure chosen in OHIF through the volume from clicks"
        ),
        "oneprompt_points_slice": PointsTask(
            engine, POINTS, 2, "Segments the structure chosen in OHIF on the clicked slices only"
        ),
        "oneprompt_click": ClickTask(
            engine, InferType.DEEPGROW, 3, "Segments one structure through the volume from clicks or a box"
        ),
        "oneprompt_slice": ClickTask(engine, InferType.DEEPGROW, 2, "Segments one structure on the clicked slice only"),
        "oneprompt_scribbles": ScribblesTask(
            engine, InferType.SCRIBBLES, 3, "Segments from scribbles, or from masks painted on some slices"
        ),
    }


def numbered_for(request: Mapping[str, Any], prediction: Prediction) -> Prediction:
    """The prediction with the numbers that the client expects: Slicer takes value 1 for the structure it prompted."""
    if not one_structure_from_slicer(request) or len(prediction.labels) != 1:
        return prediction
    mask = (prediction.mask > 0).astype(np.uint8)
    return dataclasses.replace(prediction, mask=mask, labels=dict.fromkeys(prediction.labels, 1))


def from_templates(engine: Engine, request: Mapping[str, Any], image: Image) -> Prediction:
    """The structures that a request asks for, by the templates; a copy of the stored mask where that has them all."""
    image_id, known = request.get("image_id"), engine.labels.names
    wanted = {name: known[name] for name in structures({**request, "label": None}, known)}
    stored = engine.studies.automatic(image_id, image, older_weights=True) if image_id else None
    if stored is not None and wanted == known:
        mask, made = read_label(stored.path, image), stored.record.provenance
        assert made is not None  # of a mask that this app made
        known_elsewhere = ("label_names", "structures", "quality", "image_stamp")
        provenance = {key: value for key, value in made.to_json().items() if key not in known_elsewhere}
        quality = {name: one.dice for name, one in made.quality.items() if one.dice is not None}
        return Prediction(mask, dict(made.label_names), quality, {**provenance, "stored": True})
    with engine.priority_lock.interactive():
        return engine.studies.segment(image_id, image, wanted, client_control())


def _uploaded(request: Mapping[str, Any], image: Image, labels: LabelMap) -> Mapping[str, np.ndarray]:
    """{structure: bool array of the image's shape} of the label map that came with a request; {} where none did."""
    path = request.get("label_file")
    if not path:
        return {}
    return LabelMasks(read_label(path, image), request, labels.configured, labels.spelled)


def _write(mask: np.ndarray, image: Image, extension: str | None) -> Path:
    suffix = extension or ".nii.gz"
    if not suffix.lower().endswith(LABEL_SUFFIXES) or "/" in suffix or len(suffix) > 10:
        raise ClientError(f"result_extension must be one of {', '.join(LABEL_SUFFIXES)}, got {suffix!r}")
    content = label_bytes(Path(suffix), mask, image, level=QUICK)
    handle, path = tempfile.mkstemp(suffix=suffix, prefix=temporary_prefix())
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except BaseException:
        os.unlink(path)  # nobody else knows of it
        raise
    return Path(path)
