"""The networks whose weights can be read from a file: the only table to add a new one to.

A checkpoint's header names the architecture; from the configuration beside it the network is built. Its module is
imported when that is asked for first: two of them stand on MONAI, which takes longer to import than all of `lib`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from lib.networks.config import NetworkConfig
from lib.networks.oneprompt import OnePrompt

Parts = tuple[type[nn.Module], Callable[[Mapping[str, Any]], Any]]


@dataclass(frozen=True)
class Architecture:
    """How networks of one kind are built.

    Attributes:
        name: in the headers of checkpoints.
        parts: imports and gives what `network` and `read_config` say.
    """

    name: str
    parts: Callable[[], Parts]

    @cached_property
    def network(self) -> type[nn.Module]:
        """The class; made from a configuration, which it keeps as `config`."""
        return self.parts()[0]

    @cached_property
    def read_config(self) -> Callable[[Mapping[str, Any]], Any]:
        """From the JSON-able form that the configuration's `as_dict` gives. Raises ValueError, TypeError."""
        return self.parts()[1]


def _list_unet() -> Parts:
    from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork

    return ListUNetNetwork, ListUNetConfig.from_dict


def _promptseg() -> Parts:
    from lib.networks.promptseg import PromptSeg, PromptSegConfig

    return PromptSeg, PromptSegConfig.from_dict


def _uniseg() -> Parts:
    from lib.networks.uniseg import UniSeg, UniSegConfig

    return UniSeg, UniSegConfig.from_dict


ONE_PROMPT = Architecture("oneprompt", lambda: (OnePrompt, NetworkConfig.from_dict))
LIST_UNET = Architecture("list-unet", _list_unet)
PROMPTSEG = Architecture("promptseg", _promptseg)
UNISEG = Architecture("uniseg", _uniseg)
ARCHITECTURES: Mapping[str, Architecture] = {known.name: known for known in (ONE_PROMPT, LIST_UNET, PROMPTSEG, UNISEG)}


def architecture_of(network: nn.Module) -> Architecture:
    """The architecture of a network. Raises ValueError for one that is not in the table."""
    for known in ARCHITECTURES.values():
        if type(network) is known.network:
            return known
    raise ValueError(f"networks must be of {', '.join(ARCHITECTURES)}, got a {type(network).__name__}: register it")
