"""PromptSeg: a query and K visual prompts in one pass, in any order.

Ours in the details (see the package's text): the query's tokens at stride 8 read the stochastic task tokens and all
prompts' tokens at once; what of the prompts does not depend on the query, keys and values included, is made once for a
task (`remember`) and read by every query (`read`). One-Prompt's ablation showed dense correspondence to be
indispensable (25.1 to 11.9 Dice without it), so a match of the query's tokens to all prompts' keys carries their masks
across, by the prompts' weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from lib.imaging.prompts import MAP_CHANNELS, SLOTS
from lib.networks.blocks import ResidualBlock, attend, coordinates, pool_to, upsample
from lib.networks.contract import Features
from lib.networks.correspondence import AFFINITY_CHANNELS
from lib.networks.image_encoder import ImageEncoder
from lib.networks.patch import PatchEncoder, PatchMaskDecoder, PatchPromptEncoder, Support, map_pyramid, support_level
from lib.networks.patch.blocks import Attention, FeedForward, TokenNorm, dense, expand_first, flat, grid_side
from lib.networks.patch.former import PatchAffinity
from lib.networks.promptseg.bottleneck import Bottleneck, Task
from lib.networks.promptseg.config import LEVEL, PromptSegConfig

FINEST = 2  # level of the answer that the mask decoder takes
LEVELS = (LEVEL, FINEST)


@dataclass(frozen=True)
class Memory:
    """What every query of a task reads: K prompts of B tasks, or of one for all queries.

    Attributes:
        task: task tokens, weights and divergence.
        keys, values: of each block, (B, heads, T + K * M, C / heads): task tokens, then the prompts' tokens.
        bias: (B, 1, 1, T + K * M) what is added to every key's score: 0 for a task token, and for a prompt's tokens
            the logarithm of its weight times K, which is 0 where all prompts count alike.
        supports: the prompts at strides 8 and 4, for the dense correspondence.
        near: the prompts' mean features inside and outside the structure, which the mask decoder reads.
    """

    task: Task
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor
    supports: tuple[Support, ...]
    near: tuple[Tensor, ...]

    @property
    def weights(self) -> Tensor:
        """(B, K) how much each prompt counts; the sum is 1."""
        return self.task.log_weights.exp()

    def of_tasks(self, tasks: Tensor) -> Memory:
        """The memory of the tasks with these numbers (B'), which may repeat: one for each of B' queries."""
        return Memory(
            task=self.task.of_tasks(tasks),
            keys=tuple(keys[tasks] for keys in self.keys),
            values=tuple(values[tasks] for values in self.values),
            bias=self.bias[tasks],
            supports=tuple(one.of_tasks(tasks) for one in self.supports),
            near=tuple(directions[tasks] for directions in self.near),
        )


class PromptSeg(nn.Module):
    """The whole network; see the module's text."""

    def __init__(self, config: PromptSegConfig) -> None:
        super().__init__()
        self.config = config
        parts, channels = config.parts, config.channels
        heads, finest = channels // config.head_channels, parts.level_channels(FINEST)
        pyramid = config.encoder.design == "pyramid"
        self.image_encoder: nn.Module = ImageEncoder(config.encoder) if pyramid else PatchEncoder(parts)
        self.prompt_encoder = PatchPromptEncoder(parts, LEVELS)
        self.position = nn.Linear(2, channels)
        self.from_context = nn.Linear(parts.level_channels(LEVEL + 1), channels)
        self.prompt_block = Attention(channels, heads)
        self.prompt_feed_forward = FeedForward(channels)
        self.bottleneck = Bottleneck(config)
        widths = [parts.level_channels(level) for level in LEVELS]
        self.affinities = nn.ModuleList(PatchAffinity(width, parts.correspondence_channels) for width in widths)
        self.read_affinities = nn.ModuleList(nn.Conv2d(AFFINITY_CHANNELS, width, 3, padding=1) for width in widths)
        self.blocks = nn.ModuleList(_Block(channels, heads) for _ in range(config.depth))
        self.to_finest = nn.Linear(channels, finest)
        self.neighbours = ResidualBlock(finest)
        self.mask_decoder = PatchMaskDecoder(parts)

    def encode(self, images: Tensor) -> Features:
        """Normalised grey images (B, 1, S, S), S a multiple of the stride, to features fine to coarse."""
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be (B, 1, S, S), got {tuple(images.shape)}")
        if images.shape[-1] % self.config.stride:
            raise ValueError(f"image side must be a multiple of {self.config.stride}, got {images.shape[-1]}")
        features: Features = self.image_encoder(images.contiguous(memory_format=torch.channels_last))
        return features

    def remember(self, templates: Features, maps: Tensor) -> Memory:
        """What queries read of K prompts, once for a task.

        Args:
            templates: features of the prompts' images, levels (B or 1, K, C, h, h).
            maps: their prompt maps (B or 1, K, 2, 5, S, S): masks, or clicks, boxes and strokes.

        Raises:
            ValueError: no prompt, or more than one pass reads.
        """
        count = maps.shape[1]
        if not 1 <= count <= self.config.most_templates:
            raise ValueError(
                f"network {self.config.name!r} reads 1 to {self.config.most_templates} prompts in one pass, got "
                f"{count}: choose the ones most like the query"
            )
        batch = max(len(templates[0]), len(maps))
        templates = tuple(expand_first(level, batch) for level in self._read_levels(templates))
        maps = expand_first(maps, batch).flatten(0, 1).to(templates[0].dtype)
        embeddings, pyramid = self.prompt_encoder(maps), map_pyramid(maps)
        tokens = self._prompt_tokens(templates, embeddings[LEVEL]).unflatten(0, (batch, count))
        task = self.bottleneck(tokens)
        relative = task.log_weights + math.log(count)
        source = torch.cat([task.tokens, tokens.flatten(1, 2)], dim=1)
        pairs = [cast(_Block, block).keys_values(source) for block in self.blocks]
        prompts = relative[..., None].expand(-1, -1, tokens.shape[2]).flatten(1)
        bias = torch.cat([prompts.new_zeros(batch, task.tokens.shape[1]), prompts], dim=1)[:, None, None]
        factor = relative.exp().flatten()[:, None, None, None]
        return Memory(
            task=task,
            keys=tuple(keys for keys, _ in pairs),
            values=tuple(values for _, values in pairs),
            bias=bias.to(tokens.dtype),
            supports=tuple(self._support(templates, embeddings, pyramid, level, relative) for level in LEVELS),
            near=self.mask_decoder.near(
                templates, {level: _weighted(value, factor) for level, value in pyramid.items()}
            ),
        )

    def read(self, query: Features, memory: Memory, query_prompts: Tensor | None = None) -> Tensor:
        """Segment queries by remembered prompts.

        Args:
            query: features of B queries.
            memory: of B tasks, or of one for all queries.
            query_prompts: (B or 1, 2, 5, S, S) prompt maps on the queries themselves, None for none.

        Returns:
            Logits (B, 1, S, S), float32.
        """
        batch = max(len(query[0]), len(memory.bias))
        query = tuple(expand_first(level, batch) for level in self._read_levels(query))
        side = 2 * query[0].shape[-1]
        if query_prompts is None:
            query_prompts = query[0].new_zeros(1, SLOTS, len(MAP_CHANNELS), side, side)
        query_prompts = query_prompts.to(query[0].dtype)
        own = self.prompt_encoder(query_prompts)
        place = self.config.parts.place_of
        coarse = query[place(LEVEL)]
        tokens = self._tokens(coarse, query[place(LEVEL + 1)]) + own[LEVEL][0] + own[LEVEL][1]
        tokens = tokens + self._matches(0, coarse, memory)
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            tokens = block(tokens, keys, values, memory.bias)
        fine = query[place(FINEST)]
        answer = flat(fine) + own[FINEST][0] + own[FINEST][1] + self._matches(1, fine, memory)
        answer = answer + flat(upsample(dense(self.to_finest(tokens)), fine.shape[-1]))
        logits: Tensor = self.mask_decoder(self.neighbours(dense(answer)), query, memory.near, query_prompts)
        return logits

    def decode(
        self, query: Features, template: Features, template_prompts: Tensor, query_prompts: Tensor | None = None
    ) -> Tensor:
        """Remember and read at once, as `lib.networks.contract.SliceModel` says it."""
        if template_prompts.ndim == 5:
            template, template_prompts = tuple(level[:, None] for level in template), template_prompts[:, None]
        return self.read(query, self.remember(template, template_prompts), query_prompts)

    def _read_levels(self, features: Features) -> Features:
        """Those from stride 2 on."""
        return features[-len(self.config.parts.channels) :]

    def _tokens(self, features: Tensor, context: Tensor) -> Tensor:
        """Features at strides 8 and 16 to tokens (B, N, C) at stride 8."""
        size = features.shape[-1]
        wide = upsample(dense(self.from_context(flat(context))), size)
        return flat(features) + flat(wide) + self.position(flat(coordinates(size, features)))

    def _prompt_tokens(self, templates: Features, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """(B * K, M, C): each prompt's tokens, which have read each other but no other prompt's."""
        place = self.config.parts.place_of
        features, context = (templates[place(level)].flatten(0, 1) for level in (LEVEL, LEVEL + 1))
        tokens = dense(self._tokens(features, context) + embeddings[0] + embeddings[1])
        tokens = flat(pool_to(tokens, grid_side(tokens.shape[-1], self.config.prompt_tokens)))
        return self.prompt_feed_forward(self.prompt_block(tokens, tokens))

    def _support(
        self,
        templates: Features,
        embeddings: dict[int, tuple[Tensor, Tensor]],
        pyramid: dict[int, Tensor],
        level: int,
        relative: Tensor,
    ) -> Support:
        """One level's keys for the dense correspondence; a prompt's keys are preferred by its weight."""
        parts = self.config.parts
        most, split = parts.support_grid(level)
        if not split:  # at stride 8 as many keys as the query reads tokens of a prompt
            most = self.config.prompt_tokens
        support = support_level(templates[parts.place_of(level)], embeddings[level], pyramid[level], most, split)
        return replace(support, log_weights=support.log_weights + relative[..., None].to(support.log_weights.dtype))

    def _matches(self, number: int, query: Tensor, memory: Memory) -> Tensor:
        return flat(self.read_affinities[number](self.affinities[number](query, memory.supports[number], None)))


class _Block(nn.Module):
    """The query's tokens read each other, then the task and all prompts; pre-norm, residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self_attention = Attention(channels, heads)
        self.norm_queries, self.norm_source = TokenNorm(channels), nn.LayerNorm(channels)
        self.queries = nn.Linear(channels, channels)
        self.to_keys_values = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.feed_forward = FeedForward(channels)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Task and prompt tokens (B, T + K * M, C) to keys and values, each (B, heads, T + K * M, C / heads).

        Normalised token by token: a normalisation over all of them would let one prompt change another's.
        """
        keys, values = (self._split(part) for part in self.to_keys_values(self.norm_source(source)).chunk(2, dim=-1))
        return keys, values

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """(B, N, C); keys, values and bias of B tasks, or of one for all."""
        pooled = flat(pool_to(dense(tokens), grid_side(round(tokens.shape[1] ** 0.5), 64)))
        tokens = self.self_attention(tokens, pooled)
        queries = self._split(self.queries(self.norm_queries(tokens)))
        batch = len(tokens)
        keys, values, bias = (expand_first(part, batch) for part in (keys, values, bias))
        answer = attend(queries, keys, values, bias.to(queries.dtype))
        return self.feed_forward(tokens + self.out(answer.transpose(1, 2).flatten(2)))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _weighted(maps: Tensor, factor: Tensor) -> Tensor:
    """Maps (B * K, 12, h, h) whose last two, structure and background, count by each prompt's weight."""
    return torch.cat([maps[:, :-2], maps[:, -2:] * factor.to(maps.dtype)], dim=1)
