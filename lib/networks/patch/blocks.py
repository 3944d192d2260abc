"""Layers of the patch design. Maps are (B, C, h, w) in channels-last memory, so that tokens (B, N, C) are a view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.blocks import attend


def patches(maps: Tensor, side: int) -> Tensor:
    """(B, C, S, S) to (B, C * side**2, S / side, S / side), channels-last; each channel's patch stays together.

    Written as a permutation because a contiguous one-channel image is channels-last by its strides as well, and what
    follows would run in the wrong layout.
    """
    batch, channels, size = maps.shape[0], maps.shape[1], maps.shape[-1] // side
    parted = maps.view(batch, channels, size, side, size, side).permute(0, 2, 4, 1, 3, 5)
    return parted.reshape(batch, size, size, channels * side * side).permute(0, 3, 1, 2)


class TokenNorm(nn.GroupNorm):
    """Group normalisation of tokens (B, N, C) over an image: a third of a layer norm's time at 64 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // 16), channels)

    def forward(self, tokens: Tensor) -> Tensor:
        # as a map of width one, whose strides say channels-last; another way to add the axis would copy the tokens
        normal: Tensor = super().forward(tokens[:, :, None].permute(0, 3, 1, 2))
        return normal.permute(0, 2, 3, 1)[:, :, 0]


class Attention(nn.Module):
    """Pre-norm multi-head attention with a residual connection to the queries."""

    def __init__(self, channels: int, heads: int, source_channels: int | None = None) -> None:
        super().__init__()
        source_channels = source_channels or channels
        self.heads = heads
        self.norm_queries, self.norm_source = TokenNorm(channels), TokenNorm(source_channels)
        self.queries = nn.Linear(channels, channels)
        self.keys_values = nn.Linear(source_channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, N, C) attends to source (B, M, C'); returns (B, N, C)."""
        queries = self._split(self.queries(self.norm_queries(x)))
        keys, values = (self._split(part) for part in self.keys_values(self.norm_source(source)).chunk(2, dim=-1))
        return x + self.out(attend(queries, keys, values).transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with a residual connection."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = TokenNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(F.relu(self.expand(self.norm(x))))


def grid_side(side: int, most: int) -> int:
    """Side of the grid that a map of this side is read through: at most `most` tokens."""
    return min(side, int(most**0.5))


def dense(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) of a square grid to maps (B, C, h, h), a view."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def flat(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) to tokens (B, h * w, C), a view of channels-last memory."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def expand_first(value: Tensor, batch: int) -> Tensor:
    """One entry, or as many as the batch, to the batch."""
    return value.expand(batch, *value.shape[1:])


def prepend_templates(value: Tensor, batch: int) -> Tensor:
    """(B or 1, K, ...) to (B * K, ...): every template of every query an entry of its own."""
    return torch.flatten(expand_first(value, batch), 0, 1)
