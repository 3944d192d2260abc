"""A PromptSeg that begins with what a One-Prompt of the patch design has learnt.

The image encoder, the prompt encoder, the dense correspondence at strides 8 and 4, and the mask decoder are the same
modules in both networks; only the Transformer between them and the bottleneck begin with random weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from lib.networks.oneprompt import OnePrompt
from lib.networks.patch import PatchFormerBlock
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
        own, learnt = getattr(network, name), getattr(start, name).state_dict()
        own.load_state_dict({key: learnt[key] for key in own.state_dict()})  # One-Prompt encodes prompts coarser too
    for number, level in enumerate(LEVELS):
        block = cast(PatchFormerBlock, start.former[start.config.former_levels.index(level)])
        network.affinities[number].load_state_dict(block.affinity.state_dict())
        network.read_affinities[number].load_state_dict(block.read_affinity.state_dict())
    finest = cast(PatchFormerBlock, start.former[-1])
    network.to_finest.load_state_dict(finest.from_previous.state_dict())
    network.neighbours.load_state_dict(finest.neighbours.state_dict())
    return network.requires_grad_(True).train()
