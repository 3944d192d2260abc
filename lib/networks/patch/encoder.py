"""The shared image encoder of the patch design: a border map at stride 2, then a residual pyramid from stride 4 on."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lib.networks.blocks import ConvBlock, ResidualBlock
from lib.networks.config import NetworkConfig
from lib.networks.patch.blocks import patches


class PatchEncoder(nn.Module):
    """Features at strides 2 (light, for borders), 4, 8 and 16."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        at_border, *deeper = config.blocks
        self.border = ConvBlock(4, config.channels[0])
        self.border_blocks = nn.Sequential(*(ResidualBlock(config.channels[0]) for _ in range(at_border)))
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBlock(inputs, outputs, stride=2), *(ResidualBlock(outputs) for _ in range(blocks)))
            for (inputs, outputs), blocks in zip(pairwise(config.channels), deeper, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised grey images (B, 1, S, S) to features fine to coarse, n-th of (B, C_n, S / 2**(n + 1), ...)."""
        features = [self.border_blocks(self.border(patches(images, 2)))]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return tuple(features)
