"""The list-specific U-Net as a further segmentation model, listed while one is offered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from monailabel.interfaces.tasks.infer_v2 import InferType

from infers.errors import ClientError
from infers.serving.clients import client_control
from infers.study_list.studies import LIST_UNET
from infers.tasks.oneprompt import Engine, OnePromptTask
from infers.tasks.request import structures
from lib.finetuning.served_list_unet import WON_FROM
from lib.imaging.images import Image
from lib.segmenters.contract import Prediction


class Vocabulary(Protocol):
    """What is needed of a list-specific U-Net (`lib.segmenters.list_unet.ListUNet`)."""

    @property
    def structures(self) -> tuple[str, ...]: ...


class ListUNetSource(Protocol):
    """What is needed of the one that is served (`lib.finetuning.served_list_unet.ServedListUNet`)."""

    @property
    def path(self) -> Path: ...
    @property
    def current(self) -> Vocabulary | None: ...
    def status(self) -> dict[str, Any]: ...


class ListUNetTask(OnePromptTask):
    """`oneprompt_specialist`: what the list-specific U-Net learnt, also where a mask is stored already."""

    def __init__(self, engine: Engine, served: ListUNetSource) -> None:
        super().__init__(engine, InferType.SEGMENTATION, 3, "One-Prompt with a network of this study list alone")
        self.served = served

    def info(self) -> dict[str, Any]:
        """MONAI Label's description; the labels are those that it learnt."""
        status = self.served.status()
        known = self.engine.labels.names
        labels = {name: known[name] for name in status.get("structures", ()) if name in known}
        count = status.get(WON_FROM)
        since = f"; better than One-Prompt alone from {count} labelled {'study' if count == 1 else 'studies'} on"
        return {**super().info(), "labels": labels, "description": self.description + since}

    def is_valid(self) -> bool:
        """Whether there is one."""
        return self.served.current is not None

    def get_path(self, validate: bool = True) -> str:
        """Its weights file."""
        return str(self.served.path)

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        unet, known = self.served.current, self.engine.labels.names
        if unet is None:
            raise ClientError(f"{LIST_UNET} is not offered: train one first, with POST /train/{LIST_UNET}", 409)
        offered = {name: known[name] for name in unet.structures if name in known}
        wanted = {name: known[name] for name in structures({**request, "label": None}, offered)}
        with self.engine.priority_lock.interactive():
            return self.engine.studies.segment(request.get("image_id"), image, wanted, client_control())
