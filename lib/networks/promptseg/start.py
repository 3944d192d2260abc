"""A PromptSeg that begins with what a One-Prompt has learnt.

Of the patch design the image encoder, the prompt encoder, the dense correspondence at strides 8 and 4, and the mask
decoder are the same modules in both networks; only the Transformer between them and the bottleneck begin with random
weights. Of the pyramid design the image encoder and the dense correspondence are taken over: the rest has other shapes.
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
        ValueError: a One-Prompt without dense correspondence.
    """
    if not start.config.dense_correspondence:
        raise ValueError(
            f"a PromptSeg starts from One-Prompt weights with dense correspondence, got {start.config.name!r} without"
        )
    network = PromptSeg(replace(config, encoder=start.config))
    _take_over(network.image_encoder, start.image_encoder)
    for number, level in enumerate(LEVELS):
        block = start.former[start.config.former_levels.index(level)]
        _take_over(network.affinities[number], block.affinity)
        _take_over(network.read_affinities[number], block.read_affinity)
    if start.config.design == "patch":
        for name in ("prompt_encoder", "mask_decoder"):
            _take_over(getattr(network, name), getattr(start, name))
        _take_over(network.to_finest, start.former[-1].from_previous)
        _take_over(network.neighbours, start.former[-1].neighbours)
    return network.requires_grad_(True).train()


def _take_over(own: Any, former: Any) -> None:
    """Copy a part's weights from a part that has these at least: One-Prompt encodes prompts at coarser levels too.

    What is a product of tokens here is a convolution of one pixel in the pyramid design.
    """
    learnt = former.state_dict()
    own.load_state_dict({key: learnt[key].reshape(value.shape) for key, value in own.state_dict().items()})
