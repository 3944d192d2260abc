"""The One-Prompt Former block: a query branch and a template branch that read each other (One-Prompt, figure 3).

One feature level a block, coarse to fine. The query branch starts from the encoder's skip feature e_q and reads the
previous block's answer; the template branch passes the Prompt-Parser; the branches attend to each other and merge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.networks.blocks import Attention, FeedForward, coordinates, pool_tokens, to_tokens
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import AFFINITY_CHANNELS, Affinity, PromptMaps
from lib.networks.prompt_parser import PromptParser


class OnePromptFormerBlock(nn.Module):
    """One level of the decoder."""

    def __init__(self, config: NetworkConfig, level: int, previous_channels: int | None) -> None:
        super().__init__()
        channels, keys = config.channels[level], config.max_keys
        heads = channels // config.head_channels
        self.level, self.max_keys = level, keys
        self.position = nn.Conv2d(2, channels, 1)
        self.read_previous = Attention(channels, heads, keys, previous_channels) if previous_channels else None
        self.parser = PromptParser(channels, config.gaussian_masking) if config.prompt_parser else None
        self.plain = None if config.prompt_parser else nn.Linear(2 * channels, channels)
        self.affinity = (
            Affinity(channels, config.correspondence_channels, keys) if config.dense_correspondence else None
        )
        self.read_affinity = nn.Conv2d(AFFINITY_CHANNELS, channels, 3, padding=1) if self.affinity else None
        self.query_reads_template = Attention(channels, heads, keys)
        self.template_reads_query = Attention(channels, heads, keys)
        self.merge = Attention(channels, heads, keys)
        self.self_attention = Attention(channels, heads, keys)
        self.feed_forward = FeedForward(channels)

    def forward(
        self,
        query: Tensor,
        template: Tensor,
        template_prompts: tuple[Tensor, Tensor],
        query_prompts: tuple[Tensor, Tensor],
        maps: PromptMaps,
        previous: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """One step of the decoder.

        Args:
            query, template: this level's features (B, C, h, h).
            template_prompts, query_prompts: this level's (p1, p2), each (B, N, C).
            maps: the template's prompt maps.
            previous: the coarser block's tokens (B, N', C').

        Returns:
            This block's tokens e^i (B, N, C) and the affinity maps (B, AFFINITY_CHANNELS, h, h) or None.
        """
        size = query.shape[-1]
        place = to_tokens(self.position(coordinates(size, query)))
        e_q = to_tokens(query) + place + query_prompts[0] + query_prompts[1]
        e_t = to_tokens(template) + place
        if self.read_previous is not None and previous is not None:
            e_q = self.read_previous(e_q, previous)
        factors = None
        if self.parser is not None:
            e_t, factors = self.parser(e_t, *template_prompts, e_q)
        elif self.plain is not None:
            e_t = e_t + self.plain(torch.cat(template_prompts, dim=-1))
        affinity = None
        if self.affinity is not None and self.read_affinity is not None:
            affinity = self.affinity(template, query, maps, factors)
            e_q = e_q + to_tokens(self.read_affinity(affinity))
        e_t = pool_tokens(e_t, self.max_keys)
        read_by_query = self.query_reads_template(e_q, e_t)
        read_by_template = self.template_reads_query(e_t, e_q)
        merged = self.merge(read_by_query, read_by_template)
        merged = self.self_attention(merged, merged)
        return self.feed_forward(merged), affinity
