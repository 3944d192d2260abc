"""From the last Former block's tokens to a mask: a coarse answer, refined at strides 2 and 1.

The query's own prompt maps come in again at full resolution, so that a click acts where it was made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.networks.blocks import ConvBlock, to_maps, upsample
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import AFFINITY_CHANNELS, MAP_COUNT, PROTOTYPE_CHANNELS, PromptMaps, Prototypes


class MaskDecoder(nn.Module):
    """Tokens (B, N, C) and the pyramids of query and template to logits (B, 1, S, S)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        coarse = config.channels[config.former_levels[-1]]
        half, full = config.decoder_channels
        extra = AFFINITY_CHANNELS if config.dense_correspondence else 0
        prototypes = PROTOTYPE_CHANNELS if config.dense_correspondence else 0
        self.coarse_head = nn.Conv2d(coarse, 1, 1)
        self.prototypes = nn.ModuleList(Prototypes(config.channels[n]) for n in (1, 0)) if extra else None
        self.to_half = nn.Conv2d(coarse + extra, half, 1)
        self.at_half = nn.Sequential(
            ConvBlock(half + config.channels[1] + MAP_COUNT + prototypes + 1, half), ConvBlock(half, half)
        )
        self.to_full = nn.Conv2d(half, full, 1)
        self.at_full = nn.Sequential(
            ConvBlock(full + config.channels[0] + MAP_COUNT + prototypes + 1, full), ConvBlock(full, full)
        )
        self.head = nn.Conv2d(full, 1, 1)

    def forward(
        self,
        tokens: Tensor,
        affinity: Tensor | None,
        query: tuple[Tensor, ...],
        template: tuple[Tensor, ...],
        template_maps: PromptMaps,
        query_maps: PromptMaps,
    ) -> Tensor:
        """Pyramids fine to coarse, prompt maps of B or of one for all; logits (B, 1, S, S) in float32."""
        x = to_maps(tokens, round(tokens.shape[1] ** 0.5))
        logits = self.coarse_head(x)
        x = self.to_half(x if affinity is None else torch.cat([x, affinity], dim=1))
        for step, level in enumerate((1, 0)):
            size = query[level].shape[-1]
            logits = upsample(logits, size)
            about = query_maps.at(size).to(x.dtype).expand(len(x), -1, -1, -1)
            parts = [upsample(x, size), query[level], about, logits]
            if self.prototypes is not None:
                parts.append(self.prototypes[step](template[level], query[level], template_maps))
            x = (self.at_half, self.at_full)[step](torch.cat(parts, dim=1))
            x = self.to_full(x) if step == 0 else x
        return (logits + self.head(x)).float()
