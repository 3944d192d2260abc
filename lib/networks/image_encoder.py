"""The shared image encoder: template and query pass the same convolutional pyramid."""

from __future__ import annotations

from torch import Tensor, nn

from lib.networks.blocks import ConvBlock, ResidualBlock
from lib.networks.config import NetworkConfig


class ImageEncoder(nn.Module):
    """Residual convolutional pyramid with strides 1, 2, 4, 8 and 16."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.channels
        self.stem = nn.Sequential(ConvBlock(1, channels[0]), ConvBlock(channels[0], channels[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(inputs, outputs, stride=2),
                *(ResidualBlock(outputs) for _ in range(blocks)),
            )
            for inputs, outputs, blocks in zip(channels[:-1], channels[1:], config.blocks, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised grey images (B, 1, S, S) to features fine to coarse, level n of (B, C_n, S / 2**n, S / 2**n)."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return tuple(features)
