"""A PromptSeg that begins with what a One-Prompt of the patch design has learnt.

The image encoder, the prompt encoder, the dense correspondence at strides 8 and 4, and the mask decoder are the same
modules in both networks; only the Transformer between them and the bottleneck begin with random weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lib.networks.oneprompt import OnePrompt
from lib.networks.promptseg.config import PromptSegConfig
from lib.networks.promptseg.network import LEVELS, PromptSeg


def begin_from(start: OnePrompt, config: PromptSegConfig = PromptSegConfig()) -> PromptSeg:
    """A network with the encoder of `start` in place of the configuration's, in training mode.

    Raises:
        ValueError: a One-Prompt of another design than the patch design, or without dense correspondence.
    """
    if start.config.design != "patch" or not start.config.dense_correspondence:
        raise ValueError(
            "a PromptSeg starts from One-Prompt weights of the patch design with dense correspondence (small-v2), got "
            f"{start.config.name!r} of the design {start.config.design!r}"
        )
    network = PromptSeg(replace(config, encoder=start.config))
    for name in ("image_encoder", "prompt_encoder", "mask_decoder"):
        _take_over(getattr(network, name), getattr(start, name))
    for number, level in enumerate(LEVELS):
        block = start.former[start.config.former_levels.index(level)]
        _take_over(network.affinities[number], block.affinity)
        _take_over(network.read_affinities[number], block.read_affinity)
    _take_over(network.to_finest, start.former[-1].from_previous)
    _take_over(network.neighbours, start.former[-1].neighbours)
    return network.requires_grad_(True).train()


def _take_over(own: Any, former: Any) -> None:
    """Copy a part's weights from a part that has these at least: One-Prompt encodes prompts at coarser levels too."""
    learnt = former.state_dict()
    own.load_state_dict({key: learnt[key] for key in own.state_dict()})
