"""One-Prompt: one prompted template image, and one forward pass segments the same structure in any query image.

Ported from the paper (Wu et al., One-Prompt to Segment All Medical Images, CVPR 2024), not from its public code.
Particular about this port:
- one encoder for query and template, and `encode` is apart from `decode`: a template is encoded once, a query once
  for all its structures;
- prompts are dense maps on both sides: the template's (the paper's p1, p2) and, beyond the paper, the query's own, so
  that a click corrects an answer the template gave. With the query as its own template this is ordinary interactive
  segmentation;
- dense correspondence beside the tokens (`correspondence.py`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lib.networks import patch
from lib.networks.config import NetworkConfig
from lib.networks.correspondence import PromptMaps
from lib.networks.former import OnePromptFormerBlock
from lib.networks.image_encoder import ImageEncoder
from lib.networks.mask_decoder import MaskDecoder
from lib.networks.prompt_encoder import PromptEncoder

Features = tuple[Tensor, ...]


class OnePrompt(nn.Module):
    """The whole network; see the module's text."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        coarser = [None, *(config.level_channels(level) for level in config.former_levels[:-1])]
        levels = list(zip(config.former_levels, coarser, strict=True))
        if config.design == "patch":
            self.image_encoder: nn.Module = patch.PatchEncoder(config)
            self.prompt_encoder: nn.Module = patch.PatchPromptEncoder(config, config.former_levels)
            self.former = nn.ModuleList(patch.PatchFormerBlock(config, *level) for level in levels)
            self.mask_decoder: nn.Module = patch.PatchMaskDecoder(config)
        else:
            self.image_encoder = ImageEncoder(config)
            self.prompt_encoder = PromptEncoder(config)
            self.former = nn.ModuleList(OnePromptFormerBlock(config, *level) for level in levels)
            self.mask_decoder = MaskDecoder(config)

    def encode(self, images: Tensor) -> Features:
        """Normalised grey images (B, 1, S, S), S a multiple of 16, to features fine to coarse; slow, keep them."""
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be (B, 1, S, S), got {tuple(images.shape)}")
        if images.shape[-1] % self.config.stride:
            raise ValueError(f"image side must be a multiple of {self.config.stride}, got {images.shape[-1]}")
        return self.image_encoder(images.contiguous(memory_format=torch.channels_last))

    def decode(
        self, query: Features, template: Features, template_prompts: Tensor, query_prompts: Tensor | None = None
    ) -> Tensor:
        """Segment queries by a prompted template, or by several at once.

        Args:
            query: features of B queries, or of one for all (several structures of one image).
            template: features of B templates, or of one for all queries; levels of (B or 1, K, C, h, w) are K
                templates of each query, at most `config.most_templates`.
            template_prompts: (B or 1, 2, 5, S, S) prompt maps on the template (`lib.imaging.prompts.rasterise`),
                of several templates (B or 1, K, 2, 5, S, S).
            query_prompts: (B or 1, 2, 5, S, S) prompt maps on the query itself, None for none. In the interactive
                mode query and template are the same features, and the same maps go in on both sides.

        Returns:
            Logits (B, 1, S, S), float32.

        Raises:
            ValueError: more templates than this network reads in one pass.
        """
        if template_prompts.ndim == 5:
            template, template_prompts = tuple(level[:, None] for level in template), template_prompts[:, None]
        if template_prompts.shape[1] > self.config.most_templates:
            raise ValueError(
                f"network {self.config.name!r} reads at most {self.config.most_templates} templates in one pass, "
                f"got {template_prompts.shape[1]}: ask it about each and average the answers"
            )
        if query_prompts is None:
            query_prompts = torch.zeros_like(template_prompts[:1, 0])
        batch = max(len(query[0]), len(template[0]), len(template_prompts), len(query_prompts))
        query = tuple(level.expand(batch, -1, -1, -1) for level in query)
        decode = self._decode_patches if self.config.design == "patch" else self._decode_pyramid
        return decode(query, template, template_prompts, query_prompts)

    def _decode_pyramid(self, query: Features, template: Features, maps: Tensor, query_maps: Tensor) -> Tensor:
        batch = len(query[0])
        template = tuple(level[:, 0].expand(batch, -1, -1, -1) for level in template)
        on_template, on_query = (PromptMaps(each.to(query[0].dtype)) for each in (maps[:, 0], query_maps))
        template_embeddings, query_embeddings = self._embed(on_template, batch), self._embed(on_query, batch)
        tokens, affinity = None, None
        for level, block in zip(self.config.former_levels, self.former, strict=True):
            tokens, affinity = block(
                query[level], template[level], template_embeddings[level], query_embeddings[level], on_template, tokens
            )
        answer: Tensor = self.mask_decoder(tokens, affinity, query, template, on_template, on_query)
        return answer

    def _decode_patches(self, query: Features, template: Features, maps: Tensor, query_maps: Tensor) -> Tensor:
        maps, query_maps = maps.to(query[0].dtype), query_maps.to(query[0].dtype)
        both = max(len(template[0]), len(maps))
        template = tuple(level.expand(both, *level.shape[1:]) for level in template)
        prompts = self.prompt_encoder(maps.flatten(0, 1))
        pyramid = patch.map_pyramid(maps.flatten(0, 1))
        if len(maps) < both:
            pyramid = {level: value.repeat(both, 1, 1, 1) for level, value in pyramid.items()}
            prompts = {level: tuple(p.repeat(both, 1, 1) for p in pair) for level, pair in prompts.items()}
        query_prompts = self.prompt_encoder(query_maps)
        decoder = cast(patch.PatchMaskDecoder, self.mask_decoder)
        answer = None
        for level, block in zip(self.config.former_levels, self.former, strict=True):
            place = self.config.place_of(level)
            support = patch.support_level(
                template[place], prompts[level], pyramid[level], *self.config.support_grid(level)
            )
            answer = block(query[place], support, query_prompts[level], answer)
        logits: Tensor = decoder(answer, query, decoder.near(template, pyramid), query_maps)
        return logits

    def forward(
        self,
        query_images: Tensor,
        template_images: Tensor,
        template_prompts: Tensor,
        query_prompts: Tensor | None = None,
    ) -> Tensor:
        """Images (B, 1, S, S) and prompt maps (B or 1, 2, 5, S, S) to logits (B, 1, S, S); see `decode`."""
        query, template = self.encode(query_images), self.encode(template_images)
        return self.decode(query, template, template_prompts, query_prompts)

    def _embed(self, maps: PromptMaps, batch: int) -> dict[int, tuple[Tensor, Tensor]]:
        pairs = self.prompt_encoder(maps)
        return {level: (p1.expand(batch, -1, -1), p2.expand(batch, -1, -1)) for level, (p1, p2) in pairs.items()}
