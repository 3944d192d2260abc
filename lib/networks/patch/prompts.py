"""Prompts to the paper's embeddings p1 and p2 from patches of four pixels, so that no pixel of a box is lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.imaging.prompts import MAP_CHANNELS, SLOTS
from lib.networks.blocks import ConvBlock
from lib.networks.config import NetworkConfig
from lib.networks.patch.blocks import flat, patches

PATCH = 4


class PatchPromptEncoder(nn.Module):
    """Prompt maps (B, 2, 5, S, S) to `{level: (p1, p2)}`, each (B, N, C_level); both slots share one pass."""

    def __init__(self, config: NetworkConfig, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = sorted(levels)
        width, inputs = config.prompt_channels, SLOTS * len(MAP_CHANNELS)
        widths = [width + width // 2 * number for number in range(len(self.levels))]
        self.stem = ConvBlock(inputs * PATCH**2, width, kernel=1)
        self.stages = nn.ModuleList(ConvBlock(i, o, stride=2) for i, o in pairwise(widths))
        channels = [config.level_channels(level) for level in self.levels]
        self.heads = nn.ModuleList(nn.Conv2d(w, SLOTS * c, 1) for w, c in zip(widths, channels, strict=True))
        self.types = nn.ParameterList(nn.Parameter(0.1 * torch.randn(inputs, SLOTS * c)) for c in channels)

    def forward(self, maps: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        given = maps.flatten(3).amax(dim=-1).clamp(max=1).flatten(1)  # (B, slots * types): what was said at all?
        x = self.stem(patches(maps.flatten(1, 2), PATCH))
        embeddings = {}
        for number, level in enumerate(self.levels):
            x = self.stages[number - 1](x) if number else x
            head = self.heads[number]
            bias = given @ self.types[number].to(given.dtype)
            p1, p2 = (flat(head(x)) + bias[:, None].to(x.dtype)).chunk(2, dim=-1)
            embeddings[level] = (p1, p2)
        return embeddings
