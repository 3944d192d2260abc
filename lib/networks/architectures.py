"""The networks whose weights can be read from a file: the only table to add a new one to.

A checkpoint's header names the architecture; from the configuration beside it the network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lib.networks.config import NetworkConfig
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.networks.oneprompt import OnePrompt
from lib.networks.promptseg import PromptSeg, PromptSegConfig
from lib.networks.uniseg import UniSeg, UniSegConfig


@dataclass(frozen=True)
class Architecture:
    """How networks of one kind are built.

    Attributes:
        name: in the headers of checkpoints.
        network: the class; made from a configuration, which it keeps as `config`.
        read_config: from the JSON-able form that the configuration's `as_dict` gives. Raises ValueError, TypeError.
    """

    name: str
    network: type[nn.Module]
    read_config: Callable[[Mapping[str, Any]], Any]


ONE_PROMPT = Architecture("oneprompt", OnePrompt, NetworkConfig.from_dict)
LIST_UNET = Architecture("list-unet", ListUNetNetwork, ListUNetConfig.from_dict)
PROMPTSEG = Architecture("promptseg", PromptSeg, PromptSegConfig.from_dict)
UNISEG = Architecture("uniseg", UniSeg, UniSegConfig.from_dict)
ARCHITECTURES: Mapping[str, Architecture] = {known.name: known for known in (ONE_PROMPT, LIST_UNET, PROMPTSEG, UNISEG)}


def architecture_of(network: nn.Module) -> Architecture:
    """The architecture of a network. Raises ValueError for one that is not in the table."""
    for known in ARCHITECTURES.values():
        if type(network) is known.network:
            return known
    raise ValueError(f"networks must be of {', '.join(ARCHITECTURES)}, got a {type(network).__name__}: register it")
