"""Dense correspondence: the template's prompt carried to the query's grid by feature similarity.

Tokens alone lose where exactly a structure is; published ablations of in-context segmentation put the gain of dense
maps above that of any other part. Two kinds are made: affinity maps from an N x N match of tokens, and prototype
maps, the similarity of every query pixel to the template's mask-pooled features at full resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.imaging.prompts import BBOX, CLICK, DOODLE, MAP_CHANNELS, PREVIOUS, SEGLAB, SLOTS
from lib.networks.blocks import coordinates, pool_to, pool_tokens, to_maps, to_tokens

MAP_COUNT = SLOTS * len(MAP_CHANNELS)
AFFINITY_CHANNELS = MAP_COUNT + 2 + 2  # warped prompt maps, displacement, best match in structure and in background
PROTOTYPE_CHANNELS = 3


def support(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt maps (B, 2, 5, S, S) to soft (B, 1, S, S) regions known to be structure and known to be background.

    A box says less about its inside than a mask does, but all about its outside.
    """
    inside_box = maps[:, 0, BBOX] * maps[:, 1, BBOX]
    has_box = maps[:, 0, BBOX].flatten(1).amax(dim=1)[:, None, None]
    inside, outside = 0.5 * inside_box, has_box * (1 - inside_box)
    for exact in (CLICK, DOODLE, SEGLAB, PREVIOUS):
        inside = torch.maximum(inside, maps[:, 0, exact])
        outside = torch.maximum(outside, maps[:, 1, exact])
    return inside[:, None], outside[:, None]


class PromptMaps:
    """The prompt maps of one side, and what is known from them, at every size that a layer wants; each made once.

    Args:
        maps: (B, 2, 5, S, S).
    """

    def __init__(self, maps: Tensor) -> None:
        self.whole = maps
        self._maps = _Sizes(maps.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        self._regions: _Sizes | None = None

    def at(self, size: int) -> Tensor:
        """(B, 10, size, size) means over areas."""
        return self._maps.at(size)

    def regions(self, size: int) -> Tensor:
        """(B, 2, size, size) means of what is known to be structure, and background (`support`)."""
        if self._regions is None:
            self._regions = _Sizes(torch.cat(support(self.whole), dim=1))
        return self._regions.at(size)


class _Sizes:
    """Maps (B, C, S, S) at other sizes: halves of halves where those are there, which are the same means."""

    def __init__(self, maps: Tensor) -> None:
        self._whole = maps.shape[-1]
        self._known = {self._whole: maps}

    def at(self, size: int) -> Tensor:
        if size not in self._known:
            finer = min((known for known in self._known if known > size and not known % size), default=self._whole)
            self._known[size] = pool_to(self._known[finer], size)
        return self._known[size]


class Affinity(nn.Module):
    """Token matches between template and query at one level, with the template's maps warped along them."""

    def __init__(self, channels: int, width: int, max_keys: int) -> None:
        super().__init__()
        self.max_keys = max_keys
        self.project = nn.Conv2d(channels, width, 1)
        self.position = nn.Conv2d(2, width, 1, bias=False)  # aligned anatomies match by place as well as by look
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, 10 to begin with

    def forward(
        self, template: Tensor, query: Tensor, maps: PromptMaps, factors: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Match two feature maps and carry the template's prompt across.

        Args:
            template, query: features (B, C, h, h).
            maps: the template's, of B or of one for all.
            factors: the two factors of the prompting map M (`prompt_parser`), added to the cosine similarity.

        Returns:
            (B, AFFINITY_CHANNELS, h, h) on the query's grid.
        """
        size = query.shape[-1]
        at_template, at_query = self._embed(template), self._embed(query)  # (B, N, width)
        sharpness = self.sharpness.exp().clamp(max=100.0)
        left, right = at_query * sharpness, at_template
        if factors is not None:
            left, right = torch.cat([left, factors[1]], dim=-1), torch.cat([right, factors[0]], dim=-1)
        weights = (left @ right.transpose(1, 2)).softmax(dim=-1)  # (B, N query, N template)
        place = to_tokens(coordinates(size, weights))
        about = to_tokens(maps.at(size)).to(weights.dtype)
        carried = torch.cat([about, place.expand(len(about), -1, -1)], dim=-1)
        warped = weights @ carried.expand(len(weights), -1, -1)  # (B, N query, channels)
        best = self._best_matches(at_template, at_query, maps)
        return to_maps(torch.cat([warped[..., :-2], warped[..., -2:] - place, best], dim=-1), size)

    def _embed(self, features: Tensor) -> Tensor:
        embedded = self.project(features) + self.position(coordinates(features.shape[-1], features))
        return F.normalize(to_tokens(embedded), dim=-1)

    def _best_matches(self, template: Tensor, query: Tensor, maps: PromptMaps) -> Tensor:
        """(B, N, 2): each query token's best cosine similarity to the structure and to the background.

        On a template pooled to `max_keys` tokens; -1 where the prompt says nothing of either.
        """
        template = pool_tokens(template, self.max_keys)
        size = round(template.shape[1] ** 0.5)
        best = []
        for inside in to_tokens(maps.regions(size)).to(query.dtype).split(1, dim=-1):  # (B, N template, 1)
            # similarity * inside - (1 - inside), with the factor on the smaller side of the product
            inside = inside.expand(len(query), -1, -1)
            similar = torch.baddbmm(inside.transpose(1, 2), query, (template * inside).transpose(1, 2))
            best.append(similar.amax(dim=-1, keepdim=True) - 1)
        return torch.cat(best, dim=-1)


class Prototypes(nn.Module):
    """Similarity of every query pixel to the template's mean feature inside and outside the structure."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, template: Tensor, query: Tensor, maps: PromptMaps) -> Tensor:
        """Features (B, C, h, h) and the template's maps to (B, 3, h, h): inside, outside, difference."""
        size = query.shape[-1]
        weights = maps.regions(size).flatten(2)
        template, query = to_tokens(self.project(template)), to_tokens(self.project(query))
        means = weights.to(template.dtype).expand(len(template), -1, -1) @ template  # (B, 2, C)
        lengths = torch.linalg.vector_norm(query, dim=-1, keepdim=True).clamp(min=1e-12)
        near = query @ F.normalize(means, dim=-1).to(query.dtype).transpose(1, 2) / lengths
        return to_maps(torch.cat([near, near[..., :1] - near[..., 1:]], dim=-1), size)
