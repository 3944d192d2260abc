"""A trained UniSeg as the start of another: with further tasks beside the learnt ones, or for new tasks alone."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lib.networks.uniseg.config import UniSegConfig
from lib.networks.uniseg.network import UniSeg

PROMPT, FIRST, LAST, UP = "universal.prompt", "universal.fuse.0.conv.", "universal.fuse.2.", "up.0.weight"


def extended(network: UniSeg, tasks: int, outputs: int) -> UniSeg:
    """A copy that knows so many tasks, and answers the learnt ones as before.

    The universal prompt gets a map for each new task. What FUSE reads of it begins with weights of zero, so that the
    prompts of the learnt tasks stay what they were until training changes them.

    Args:
        network: with the universal prompt.
        tasks: number of all tasks, at least as many as now.
        outputs: of all tasks, at least as many as now.

    Raises:
        ValueError: fewer tasks or outputs than now, or a network without the universal prompt.
    """
    old = network.config
    if old.conditioning != "universal" or tasks < old.tasks or outputs < old.outputs:
        raise ValueError(
            f"UniSeg with its prompt can be extended from {old.tasks} tasks and {old.outputs} outputs to more, "
            f"got {tasks} and {outputs} for one with {old.conditioning!r} conditioning"
        )
    config = dataclasses.replace(old, tasks=tasks, outputs=outputs, fuse_features=old.fuse_width)
    grown = UniSeg(config)
    weights = grown.state_dict()
    for name, value in network.state_dict().items():
        fresh = weights[name]
        if fresh.shape == value.shape:
            weights[name] = value
        elif name.startswith(FIRST):
            # its input is the bottleneck, then the prompt's maps; new maps come last
            weights[name] = torch.zeros_like(fresh)
            weights[name][:, : value.shape[1]] = value
        else:  # prompt, last convolution of FUSE with its norm, heads: new maps, tasks and outputs come last
            weights[name] = _with_new_rows(fresh, value, 1 if name == PROMPT else 0)
    grown.load_state_dict(weights)
    return grown.to(next(network.parameters()).device)


def restarted(network: UniSeg, config: UniSegConfig) -> UniSeg:
    """A network for new tasks that begins with the encoder and the decoder of a trained one; the prompt is dropped.

    Raises:
        ValueError: their sizes differ in more than tasks, outputs, patch and conditioning.
    """
    old = network.config
    free = {"name", "tasks", "outputs", "patch", "fuse_features", "conditioning"}
    differ = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in free and getattr(config, field.name) != getattr(old, field.name)
    ]
    if differ:
        raise ValueError(
            f"a start must have the sizes of the network that starts from it; {', '.join(differ)} differ: "
            f"{[getattr(old, name) for name in differ]} and {[getattr(config, name) for name in differ]}"
        )
    fresh = UniSeg(config)
    weights = fresh.state_dict()
    for name, value in network.state_dict().items():
        if name.startswith(("universal.", "heads.")) or name not in weights:
            continue
        # the first step up reads the task prompt beside the bottleneck: what it made of the old prompt is dropped
        kept = old.features[-1]
        weights[name] = torch.cat([value[:kept], weights[name][kept:]]) if name == UP else value
    fresh.load_state_dict(weights)
    return fresh.to(next(network.parameters()).device)


def _with_new_rows(fresh: Tensor, value: Tensor, axis: int) -> Tensor:
    rows = fresh.clone()
    rows.narrow(axis, 0, value.shape[axis]).copy_(value)
    return rows
