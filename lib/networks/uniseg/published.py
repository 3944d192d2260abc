"""The published network's names of weights (an nnU-Net v1 checkpoint) and ours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lib.networks.uniseg.config import UniSegConfig
from lib.networks.uniseg.network import UniSeg

_PROMPT, _STEM = "intermedia_prompt", "conv_blocks_context.0.blocks.0.conv_"
_FUSE, _UP, _HEAD = "fusion_layer.blocks.0.conv.weight", "tu.0.weight", "seg_outputs.0.weight"


def published_names(config: UniSegConfig) -> dict[str, str]:
    """Our name of every weight of a network with the universal prompt to its published name."""
    with torch.device("meta"):
        own = UniSeg(config).state_dict()
    prefixes = dict(_prefixes(config))
    names = {"universal.prompt": _PROMPT}
    for name in own.keys() - names:
        module, _, kind = name.rpartition(".")
        names[name] = f"{prefixes[module]}.{kind}"
    return names


def config_of(state: Mapping[str, Tensor]) -> UniSegConfig:
    """The configuration of a network from its weights by their published names.

    Raises:
        ValueError: these are not the weights of a UniSeg.
    """
    matches = [re.fullmatch(re.escape(_STEM) + r"(\d+)\.weight", name) for name in state]
    stems = sorted(int(match[1]) for match in matches if match)
    missing = [name for name in (_PROMPT, _FUSE, _UP, _HEAD) if name not in state] + ([] if stems else [_STEM + "1"])
    if missing:
        raise ValueError(f"a UniSeg checkpoint has weights named {', '.join(missing)}, this one is of another network")
    ups = [state[f"tu.{number}.weight"] for number in range(sum(name.startswith("tu.") for name in state))]
    strides = tuple((int(up.shape[2]), int(up.shape[3]), int(up.shape[4])) for up in reversed(ups))
    prompt = state[_PROMPT].shape
    depth, height, width = (
        int(side) * math.prod(own) for side, own in zip(prompt[2:], zip(*strides, strict=True), strict=True)
    )
    return UniSegConfig(
        name="published",
        tasks=int(prompt[1]),
        outputs=int(state[_HEAD].shape[0]),
        patch=(depth, height, width),
        channels=tuple(stems),
        base=int(state[f"{_STEM}{stems[0]}.weight"].shape[0]),
        most_features=int(state[_FUSE].shape[1]) - int(prompt[1]),
        strides=strides,
        fuse_features=int(state[_FUSE].shape[0]),
    )


def network_of(state: Mapping[str, Tensor]) -> UniSeg:
    """A network with weights (any floating type) by their published names, in evaluation mode.

    Raises:
        ValueError: these are not the weights of a UniSeg, or not all of them.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    config = config_of(state)
    names = published_names(config)
    if set(names.values()) != set(state):
        lacking, unknown = sorted(set(names.values()) - set(state)), sorted(set(state) - set(names.values()))
        raise ValueError(
            f"the weights do not make a whole UniSeg: {len(lacking)} are missing ({', '.join(lacking[:3]) or 'none'}), "
            f"{len(unknown)} belong elsewhere ({', '.join(unknown[:3]) or 'none'})"
        )
    with torch.device("meta"):
        network = UniSeg(config)
    try:
        weights = {ours: state[theirs].detach().to(torch.float32).clone() for ours, theirs in names.items()}
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit together: {str(error).splitlines()[-1].strip()}") from error
    return network.requires_grad_(False).eval()


def _prefixes(config: UniSegConfig) -> Iterator[tuple[str, str]]:
    """Our name of every module that has weights, and its published name."""
    context, depth = "conv_blocks_context", len(config.strides)
    yield from ((f"stem.convolutions.{count}", f"{_STEM}{count}") for count in config.channels)
    yield "stem.rest.0", f"{context}.0.blocks.0.instnorm"
    yield from _block("encoder.0", f"{context}.0.blocks.1")
    for stage in range(1, depth + 1):
        for part in (0, 1):
            inner = f"{part}.blocks.0" if stage == depth else f"blocks.{part}"
            yield from _block(f"encoder.{stage}.{part}", f"{context}.{stage}.{inner}")
    for part in range(3):
        yield from _block(f"universal.fuse.{part}", f"fusion_layer.blocks.{part}")
    for stage in range(depth):
        yield f"up.{stage}", f"tu.{stage}"
        yield f"heads.{stage}", f"seg_outputs.{stage}"
        for part in (0, 1):
            yield from _block(f"decoder.{stage}.{part}", f"conv_blocks_localization.{stage}.{part}.blocks.0")


def _block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.conv", f"{theirs}.conv"
    yield f"{ours}.adn.N", f"{theirs}.instnorm"
