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

import torch
from torch import Tensor, nn

from lib.networks.config import NetworkConfig
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
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        coarser = [None, *(config.channels[level] for level in config.former_levels[:-1])]
        self.former = nn.ModuleList(
            OnePromptFormerBlock(config, level, previous)
            for level, previous in zip(config.former_levels, coarser, strict=True)
        )
        self.mask_decoder = MaskDecoder(config)

    def encode(self, images: Tensor) -> Features:
        """Normalised grey images (B, 1, S, S), S a multiple of 16, to features fine to coarse; dear, keep them."""
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be (B, 1, S, S), got {tuple(images.shape)}")
        if images.shape[-1] % self.config.stride:
            raise ValueError(f"image side must be a multiple of {self.config.stride}, got {images.shape[-1]}")
        return self.image_encoder(images.contiguous(memory_format=torch.channels_last))

    def decode(
        self, query: Features, template: Features, template_prompts: Tensor, query_prompts: Tensor | None = None
    ) -> Tensor:
        """Segment queries by a prompted template.

        Args:
            query: features of B queries.
            template: features of B templates, or of one for all queries.
            template_prompts: (B or 1, 2, 5, S, S) prompt maps on the template (`lib.imaging.prompts.rasterise`).
            query_prompts: (B or 1, 2, 5, S, S) prompt maps on the query itself, None for none. In the interactive
                mode query and template are the same features, and the same maps go in on both sides.

        Returns:
            Logits (B, 1, S, S), float32.
        """
        batch = query[0].shape[0]
        template = tuple(level.expand(batch, -1, -1, -1) for level in template)
        template_maps = template_prompts.expand(batch, -1, -1, -1, -1)
        template_embeddings = self._embed(template_prompts, batch)
        if query_prompts is None:
            query_prompts = torch.zeros_like(template_prompts[:1])
        query_maps = query_prompts.expand(batch, -1, -1, -1, -1)
        query_embeddings = self._embed(query_prompts, batch)
        tokens, affinity = None, None
        for level, block in zip(self.config.former_levels, self.former, strict=True):
            tokens, affinity = block(
                query[level],
                template[level],
                template_embeddings[level],
                query_embeddings[level],
                template_maps,
                tokens,
            )
        return self.mask_decoder(tokens, affinity, query, template, template_maps, query_maps)

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

    def _embed(self, maps: Tensor, batch: int) -> dict[int, tuple[Tensor, Tensor]]:
        pairs = self.prompt_encoder(maps)
        return {level: (p1.expand(batch, -1, -1), p2.expand(batch, -1, -1)) for level, (p1, p2) in pairs.items()}
