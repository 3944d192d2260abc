"""Which weights of a network learn when it is fine-tuned: all of them, or a few beside the others.

- `full`: every weight.
- `norms`: scale and shift of the normalisations and the biases, one number a channel.
- `lora`: every matrix and convolution plus a product of two thin matrices, which begins at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib.networks import OnePrompt

MODES = ("full", "norms", "lora")
RANK = 4


class LowRank(nn.Module):
    """W + up @ down for a weight W (O, I, ...), with `up` (O, R) zero at first and `down` (R, I * ...)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        columns = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapt(network: OnePrompt, mode: str, rank: int = RANK) -> OnePrompt:
    """Make a network ready to learn in one of `MODES`, in place; its answers are still the same.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"what learns must be one of {', '.join(MODES)}, got {mode!r}")
    for parameter in network.parameters():
        parameter.requires_grad_(mode == "full" or (mode == "norms" and parameter.ndim <= 1))
    if mode == "lora":
        for module in list(network.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and min(module.weight.shape[:2]) > rank:
                parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
    return network


@torch.no_grad()
def merged(network: OnePrompt) -> OnePrompt:
    """A copy of an adapted network with plain weights, in evaluation mode."""
    plain = OnePrompt(network.config)
    weights = {}
    for name in plain.state_dict():
        module, _, leaf = name.rpartition(".")
        weights[name] = getattr(network.get_submodule(module), leaf).detach().clone()
    plain.load_state_dict(weights, assign=True)
    return plain.requires_grad_(False).eval()
