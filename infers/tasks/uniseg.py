"""UniSeg as a segmentation model: all structures that it knows and that fit the image, nothing to click."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from monailabel.interfaces.tasks.infer_v2 import InferType
from pydantic import BeforeValidator, Field

from infers.errors import ClientError
from infers.guards import checked
from infers.serving.clients import client_control
from infers.tasks.oneprompt import Engine, OnePromptTask
from infers.tasks.request import Wanted, structures
from lib.imaging.images import Image, ImageError, read_channels
from lib.parsing import AnyChoice, AnyText, Part
from lib.segmenters.contract import Prediction
from lib.segmenters.registry import UNISEG_MODEL
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.study import Study
from lib.segmenters.uniseg.tasks import TaskError, fitting, guess_modality

UNISEG = UNISEG_MODEL.name
ALL = "all that fit"  # choice of the option `task`, the first one


def _ids(value: object) -> object:
    return value.split(",") if isinstance(value, str) and value else value or ()


class Tasks(Part):
    """Which of the model's tasks, on which channels."""

    task: AnyChoice = None
    modality: AnyText = None
    channels: Annotated[
        tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...],
        BeforeValidator(_ids),
        Field(description="ids of studies with commas between"),
    ] = ()


class UniSegSource(Protocol):
    """What is needed of the UniSeg that is served (`lib.finetuning.uniseg.served.ServedUniSeg`)."""

    @property
    def model(self) -> UniSegModel | None: ...
    @property
    def segmenter(self) -> UniSegSegmenter | None: ...
    @property
    def file(self) -> Path: ...


class UniSegTask(OnePromptTask):
    """`uniseg`: structures by request (`label`, OHIF's class prompts), by the option `task`, or all that fit.

    Which tasks fit follows from the number of channels and the modality: of the request's `modality`, or of the grey
    values. A 4-D file brings its channels itself; `channels` names further studies of the list that lie on the same
    grid, as ids with commas between.
    """

    def __init__(self, engine: Engine, served: UniSegSource) -> None:
        super().__init__(engine, InferType.SEGMENTATION, 3, "One 3-D network for all structures of a project")
        self.served = served

    def info(self) -> dict[str, Any]:
        """MONAI Label's description; labels and choices are those of the model that is offered."""
        model = self.served.model
        info = super().info()
        if model is None:
            return {**info, "labels": {}}
        choices = [ALL, *(task.name for task in model.tasks)]
        description = f"{self.description}: {', '.join(task.name for task in model.tasks)}"
        if model.licence:
            description += f". Licence: {model.licence}"
        config = {**info.get("config", {}), "task": choices}
        return {**info, "labels": self._labels(model, remember=False), "description": description, "config": config}

    def is_valid(self) -> bool:
        """Whether there is a model."""
        return self.served.model is not None

    def get_path(self, validate: bool = True) -> str:
        """Its weights file."""
        return str(self.served.file)

    def read(self, request: Mapping[str, Any]) -> Image:
        """All channels: the answer lies on the grid of the first one."""
        return read_channels(request["image"])

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        segmenter = self.served.segmenter
        if segmenter is None:
            raise ClientError(
                f"{UNISEG} is not offered: train it first, with POST /train/{UNISEG}, or start the server with --conf "
                "uniseg FILE",
                409,
            )
        try:
            study = self._study(request, segmenter.model)
            wanted = self._wanted(request, segmenter.model, study)
            with self.engine.priority_lock.interactive():
                return segmenter.segment_study(study, wanted, control=client_control())
        except (TaskError, ImageError) as error:
            raise ClientError(str(error)) from error
        except MemoryError as error:
            raise ClientError(str(error), 507) from error

    def _study(self, request: Mapping[str, Any], model: UniSegModel) -> Study:
        own, further = read_channels(request["image"]).channels, checked(Tasks, request).channels
        most = max(len(task.channels) for task in model.tasks)
        if further and len(own) + len(further) > most:  # before they are read
            raise TaskError(f"{UNISEG} knows tasks of up to {most} channels, got {len(own) + len(further)}")
        return Study((*own, *(self.engine.studies.image(name.strip()) for name in further)))

    def _wanted(self, request: Mapping[str, Any], model: UniSegModel, study: Study) -> dict[str, int]:
        known = self._labels(model, remember=True)
        wanted_by, choice = checked(Wanted, request), checked(Tasks, request)
        if wanted_by.label or wanted_by.label_prompt:
            return {name: known[name] for name in structures(request, known) if self._knows(model, name)}
        if choice.task and choice.task != ALL:
            own = [known_task for known_task in model.tasks if known_task.name == choice.task]
            if not own:
                names = ", ".join(known_task.name for known_task in model.tasks)
                raise TaskError(f"task must be {ALL!r} or one of {names}, got {choice.task!r}")
        else:
            modality = choice.modality or guess_modality(study.lowest, model.tasks)
            own = [model.tasks[index] for index in fitting(model.tasks, len(study.channels), modality)]
        wanted = {name: known[name] for one in own for name in one.structures if name in known}
        if not wanted:
            raise TaskError(
                f"none of the structures of {', '.join(one.name for one in own)} is one of this list's: start the "
                "server with --conf labels that name them"
            )
        return wanted

    def _knows(self, model: UniSegModel, name: str) -> bool:
        if name not in model.structures:
            raise TaskError(
                f"{UNISEG} knows {', '.join(model.structures)}, got {name!r}: train it on studies that show it"
            )
        return True

    def _labels(self, model: UniSegModel, remember: bool) -> dict[str, int]:
        """{structure: index} in the list's numbering."""
        names, labels = model.structures, self.engine.labels
        if labels.configured:  # only those exist on this list
            names = tuple(name for name in names if name in labels.configured)
        return labels.learn(names) if remember else labels.with_new(names)
