"""PromptSeg as a further segmentation model, listed while weights of it are configured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from monailabel.interfaces.tasks.infer_v2 import InferType

from infers.errors import ClientError
from infers.serving.clients import client_control
from infers.tasks.oneprompt import Engine, OnePromptTask
from infers.tasks.request import structures
from lib.imaging.images import Image
from lib.segmenters.contract import Prediction, Segmenter
from lib.segmenters.registry import PROMPTSEG_MODEL

PROMPTSEG = PROMPTSEG_MODEL.name


class PromptSegSource(Protocol):
    """What is needed of the one that is served (`infers.serving.promptseg.ServedPromptSeg`)."""

    @property
    def configured(self) -> Path | None: ...
    @property
    def file(self) -> Path | None: ...
    @property
    def segmenter(self) -> Segmenter | None: ...


class PromptSegTask(OnePromptTask):
    """`promptseg`: every structure that has a template, all its templates in one pass, also where a mask is stored."""

    def __init__(self, engine: Engine, served: PromptSegSource) -> None:
        super().__init__(engine, InferType.SEGMENTATION, 3, "Reads all templates of a structure at once, by weight")
        self.served = served

    def is_valid(self) -> bool:
        """Whether weights are configured."""
        return self.served.configured is not None

    def get_path(self, validate: bool = True) -> str:
        """The weights file."""
        return str(self.served.file or "")

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        segmenter, known = self.served.segmenter, self.engine.labels.names
        if segmenter is None:
            raise ClientError(
                "promptseg is not offered: start the server with --conf promptseg FILE, or --conf model promptseg",
                409,
            )
        wanted = {name: known[name] for name in structures({**request, "label": None}, known)}
        with self.engine.priority_lock.interactive():
            return self.engine.studies.segment(request.get("image_id"), image, wanted, client_control(), segmenter)
