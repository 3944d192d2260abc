"""The One-Prompt Former block of the patch design (One-Prompt, figure 3), for K templates at once.

Query branch: the encoder's skip feature, the coarser block's answer, the template's prompt carried across by dense
correspondence. Template branch: the Prompt-Parser on the support's grid. The branches read each other and merge.
The finest block has too many tokens for self-attention; a convolution looks at their neighbours instead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.blocks import ResidualBlock, coordinates, pool_to, upsample
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import AFFINITY_CHANNELS
from lib.networks.patch.blocks import Attention, FeedForward, dense, expand_first, flat, grid_side, prepend_templates
from lib.networks.patch.support import Support, of_queries
from lib.networks.prompt_parser import PromptParser

ATTENTION_KEYS = 64  # tokens of one image that attention reads, at most


class PatchAffinity(nn.Module):
    """Matches of every query token to the support's keys, with the templates' maps carried along them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.position = nn.Linear(2, width, bias=False)  # aligned anatomies match by place as well as by look
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, 10 to begin with

    def forward(self, query: Tensor, support: Support, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        """Query features (B, C, h, h) to (B, AFFINITY_CHANNELS, h, h).

        `factors` are those of the prompting map M, (B, K * grid tokens, C) and (B, h * h, C), added to the similarity.
        """
        batch, size = len(query), query.shape[-1]
        place = flat(coordinates(size, query))
        at_keys = of_queries(self._embed(support.keys, support.carried[..., -2:]), batch)
        at_query = self._embed(flat(query), place)
        cosine = at_query @ at_keys.transpose(1, 2)  # (B, N, K * keys)
        left, right = at_query * self.sharpness.exp().clamp(max=100.0).to(at_query.dtype), at_keys
        if factors is not None:
            left, right = (
                torch.cat([left, factors[1]], dim=-1),
                torch.cat([right, _at_keys(factors[0], support)], dim=-1),
            )
        bias = of_queries(support.log_weights[..., None], batch).transpose(1, 2).to(left.dtype)
        logits = torch.baddbmm(bias, left, right.transpose(1, 2))
        carried = logits.softmax(dim=-1).to(query.dtype) @ of_queries(support.carried, batch)
        best = [
            (cosine + of_queries(2 * region[..., None] - 2, batch).transpose(1, 2)).amax(dim=-1, keepdim=True)
            for region in (support.inside, support.outside)
        ]
        return dense(torch.cat([carried[..., :-2], carried[..., -2:] - place, *best], dim=-1))

    def _embed(self, features: Tensor, place: Tensor) -> Tensor:
        return F.normalize(self.project(features) + self.position(place), dim=-1)


def _at_keys(factor: Tensor, support: Support) -> Tensor:
    """M's factor (B, K * grid tokens, C) at the keys: a cell's inside and outside share that of their cell."""
    templates, grid, keys = *support.tokens.shape[1:3], support.keys.shape[2]
    if keys == grid:
        return factor
    return factor.unflatten(1, (templates, grid)).repeat(1, 1, keys // grid, 1).flatten(1, 2)


class PatchFormerBlock(nn.Module):
    """One level of the decoder."""

    def __init__(self, config: NetworkConfig, level: int, previous_channels: int | None) -> None:
        super().__init__()
        channels = config.level_channels(level)
        heads = channels // config.head_channels
        self.finest = level == config.former_levels[-1]
        self.position = nn.Linear(2, channels)
        self.from_previous = nn.Linear(previous_channels, channels) if previous_channels else None
        self.read_previous = (
            Attention(channels, heads, previous_channels) if previous_channels and not self.finest else None
        )
        self.parser = PromptParser(channels, config.gaussian_masking) if config.prompt_parser else None
        self.plain = None if config.prompt_parser else nn.Linear(2 * channels, channels)
        self.affinity = PatchAffinity(channels, config.correspondence_channels) if config.dense_correspondence else None
        self.read_affinity = nn.Conv2d(AFFINITY_CHANNELS, channels, 3, padding=1) if self.affinity else None
        self.query_reads_template = Attention(channels, heads)
        self.template_reads_query = Attention(channels, heads)
        self.merge = Attention(channels, heads)
        self.self_attention = None if self.finest else Attention(channels, heads)
        self.neighbours = ResidualBlock(channels) if self.finest else None
        self.feed_forward = FeedForward(channels)

    def forward(
        self, query: Tensor, support: Support, query_prompts: tuple[Tensor, Tensor], previous: Tensor | None
    ) -> Tensor:
        """One step of the decoder.

        Args:
            query: this level's features (B, C, h, h).
            support: the templates at this level.
            query_prompts: (p1, p2) of the query, each (B or 1, h * h, C).
            previous: the coarser block's answer (B, C', h', h').

        Returns:
            This block's answer e^i (B, C, h, h).
        """
        batch, size = len(query), query.shape[-1]
        e_q = flat(query) + self.position(flat(coordinates(size, query))) + query_prompts[0] + query_prompts[1]
        if previous is not None and self.from_previous is not None:
            e_q = e_q + flat(upsample(dense(self.from_previous(flat(previous))), size))
            if self.read_previous is not None:
                e_q = self.read_previous(e_q, _few(previous))
        e_t, factors = self._parse(e_q, support)
        if self.affinity is not None and self.read_affinity is not None:
            e_q = e_q + flat(self.read_affinity(self.affinity(query, support, factors)))
        e_t = flat(pool_to(dense(e_t), grid_side(support.side, ATTENTION_KEYS)))
        e_t = e_t.unflatten(0, (batch, -1)).flatten(1, 2)
        read_by_query = self.query_reads_template(e_q, e_t)
        read_by_template = self.template_reads_query(e_t, _few(dense(e_q)))
        merged = self.merge(read_by_query, read_by_template)
        if self.self_attention is not None:
            merged = self.self_attention(merged, _few(dense(merged)))
        merged = self.feed_forward(merged)
        return dense(merged) if self.neighbours is None else self.neighbours(dense(merged))

    def _parse(self, e_q: Tensor, support: Support) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Prompted template tokens (B * K, grid, C) and M's factors, (B, K * grid, C) and (B, N, C)."""
        batch, templates = len(e_q), support.tokens.shape[1]
        tokens = expand_first(support.tokens, batch) + self.position(support.place)
        e_t, p1, p2 = (prepend_templates(part, batch) for part in (tokens, support.p1, support.p2))
        if self.parser is not None:
            seen = pool_to(dense(e_q), support.side)
            seen = flat(seen)[:, None].expand(-1, templates, -1, -1).flatten(0, 1)
            e_t, factors = self.parser(e_t, p1, p2, seen)
            return e_t, (factors[0].unflatten(0, (batch, templates)).flatten(1, 2), self.parser.norm_query(e_q))
        if self.plain is not None:
            e_t = e_t + self.plain(torch.cat([p1, p2], dim=-1))
        return e_t, None


def _few(maps: Tensor) -> Tensor:
    """(B, C, h, h) to at most `ATTENTION_KEYS` tokens."""
    return flat(pool_to(maps, grid_side(maps.shape[-1], ATTENTION_KEYS)))
