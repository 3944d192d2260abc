"""The models of this app by name: whose masks are its own, and from which networks each is made.

This is the table to add a model to. Its name stands in the records of the masks that it made, and of its tasks,
trainers and folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.networks.architectures import LIST_UNET, ONE_PROMPT, PROMPTSEG, UNISEG, Architecture


@dataclass(frozen=True)
class Model:
    """A registered model.

    Attributes:
        name: see `lib.segmenters.contract.Capabilities`.
        architecture: of the network that its weights files hold.
    """

    name: str
    architecture: Architecture


ONEPROMPT = Model("oneprompt", ONE_PROMPT)
LIST_UNET_MODEL = Model("oneprompt_specialist", LIST_UNET)  # the name that records and clients have known it by
UNISEG_MODEL = Model("uniseg", UNISEG)
PROMPTSEG_MODEL = Model("promptseg", PROMPTSEG)
MODELS: Mapping[str, Model] = {
    model.name: model for model in (ONEPROMPT, LIST_UNET_MODEL, UNISEG_MODEL, PROMPTSEG_MODEL)
}


def is_registered(name: Any) -> bool:
    """Whether a mask with this name of its model was made by a model of this app."""
    return isinstance(name, str) and name in MODELS
