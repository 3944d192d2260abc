"""From the last Former block's answer to a mask: refined at stride 2, then each place spread to its four pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.blocks import ConvBlock, pool_to, upsample
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import MAP_COUNT, PROTOTYPE_CHANNELS
from lib.networks.patch.blocks import dense, expand_first, flat
from lib.networks.patch.support import PatchPrototypes


class PatchMaskDecoder(nn.Module):
    """The answer at stride 4 and the features of query and templates to logits (B, 1, S, S)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        coarse, border = config.level_channels(2), config.channels[0]
        half = config.decoder_channels[0]
        prototypes = PROTOTYPE_CHANNELS if config.dense_correspondence else 0
        self.near_coarse = PatchPrototypes(coarse) if prototypes else None
        self.near_border = PatchPrototypes(border) if prototypes else None
        self.read_near = nn.Linear(prototypes, coarse) if prototypes else None
        self.coarse = ConvBlock(coarse, coarse)
        self.coarse_head = nn.Linear(coarse, 1)
        self.to_half = nn.Linear(coarse, half)
        self.join = nn.Conv2d(border, half, 1)
        self.read_maps = nn.Conv2d(MAP_COUNT + prototypes, half, 3, padding=1, bias=False)
        self.at_half = ConvBlock(half, half)
        self.head = nn.Conv2d(half, 4, 1)

    def near(self, template: tuple[Tensor, ...], maps: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """All that is read of templates here, (B or 1, 2, C) at strides 4 and 2; nothing without dense correspondence.

        `template` levels are (B or 1, K, C, h, h), `maps` their `map_pyramid`.
        """
        if self.near_coarse is None or self.near_border is None:
            return ()
        return self.near_coarse.directions(template[1], maps[2]), self.near_border.directions(template[0], maps[1])

    def forward(
        self, answer: Tensor, query: tuple[Tensor, ...], near: tuple[Tensor, ...], query_maps: Tensor
    ) -> Tensor:
        """The last block's answer (B, C, S / 4, S / 4), features fine to coarse, logits (B, 1, S, S) in float32.

        `near` is of the templates, `query_maps` (B or 1, 2, 5, S, S).
        """
        batch, half = len(answer), query[0].shape[-1]
        if self.near_coarse is not None and self.read_near is not None:
            answer = answer + dense(self.read_near(self.near_coarse(query[1], near[0])))
        answer = flat(self.coarse(answer))
        logits = dense(self.coarse_head(answer))
        own = pool_to(query_maps.flatten(1, 2).contiguous(memory_format=torch.channels_last), half)
        about = [expand_first(own, batch).to(query[0].dtype)]
        if self.near_border is not None:
            about.append(dense(self.near_border(query[0], near[1])))
        # three sums in place of one long concatenation, which would be copied once more for its odd width
        joined = self.join(query[0]) + self.read_maps(torch.cat(about, dim=1))
        fine = self.at_half(F.relu(joined + upsample(dense(self.to_half(answer)), half)))
        return upsample(logits.float(), 2 * half) + F.pixel_shuffle(self.head(fine).float(), 2)
