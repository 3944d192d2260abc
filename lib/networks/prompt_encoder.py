"""Prompts to the paper's two embeddings p1 and p2, one pair for each level of the Former stack.

The paper adds a learned type embedding to a positional encoding of each prompt's coordinates. Here a prompt is a map
(`lib.imaging.prompts.rasterise`), and a small convolutional pyramid carries it to every token of every level: position
is where the map is bright. The same weights serve p1 and p2, which a learned slot embedding tells apart.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.imaging.prompts import MAP_CHANNELS, SLOTS
from lib.networks.blocks import ConvBlock, to_tokens
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import PromptMaps


class PromptEncoder(nn.Module):
    """Prompt maps of B to `{level: (p1, p2)}`, each (B, N, C_level)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.levels = sorted(config.former_levels)  # fine to coarse, as the pyramid is built
        widths = [config.prompt_channels * 2**n for n in range(1 + max(self.levels) - 1)]
        self.stem = ConvBlock(len(MAP_CHANNELS), widths[0])
        self.stages = nn.ModuleList(ConvBlock(i, o, stride=2) for i, o in pairwise(widths))
        self.heads = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level - 1], config.channels[level], 1) for level in self.levels}
        )
        self.type_embedding = nn.ParameterDict(
            {
                str(level): nn.Parameter(0.1 * torch.randn(SLOTS, len(MAP_CHANNELS), config.channels[level]))
                for level in self.levels
            }
        )

    def forward(self, maps: PromptMaps) -> dict[int, tuple[Tensor, Tensor]]:
        given = maps.whole.flatten(3).amax(dim=-1).clamp(max=1)  # (B, slot, type): was this type of prompt given?
        x = self.stem(maps.at(maps.whole.shape[-1] // 2).unflatten(1, (SLOTS, -1)).flatten(0, 1))
        embeddings = {}
        for level in range(1, max(self.levels) + 1):
            if level > 1:
                x = self.stages[level - 2](x)
            if level in self.levels:
                dense = to_tokens(self.heads[str(level)](x)).unflatten(0, (-1, SLOTS))
                types = torch.einsum("bst,stc->bsc", given.to(dense.dtype), self.type_embedding[str(level)])
                p1, p2 = (dense + types[:, :, None]).unbind(1)
                embeddings[level] = (p1, p2)
        return embeddings
