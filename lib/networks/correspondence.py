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
from lib.networks.blocks import coordinates, pool_to, to_tokens

MAP_COUNT = SLOTS * len(MAP_CHANNELS)
AFFINITY_CHANNELS = MAP_COUNT + 2 + 2  # warped prompt maps, displacement, best match in structure and in background
PROTOTYPE_CHANNELS = 3


def support(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt maps (B, 2, 5, S, S) to soft (B, 1, S, S) regions known to be structure and known to be background.

    A box says less about its inside than a mask does, but all about its outside.
    """
    inside_box = maps[:, 0, BBOX] * maps[:, 1, BBOX]
    has_box = maps[:, 0, BBOX].flatten(1).amax(dim=1)[:, None, None]
    exact = [CLICK, DOODLE, SEGLAB, PREVIOUS]
    inside = torch.maximum(maps[:, 0, exact].amax(dim=1), 0.5 * inside_box)
    outside = torch.maximum(maps[:, 1, exact].amax(dim=1), has_box * (1 - inside_box))
    return inside[:, None], outside[:, None]


class Affinity(nn.Module):
    """Token matches between template and query at one level, with the template's maps warped along them."""

    def __init__(self, channels: int, width: int, max_keys: int) -> None:
        super().__init__()
        self.max_keys = max_keys
        self.project = nn.Conv2d(channels, width, 1)
        self.position = nn.Conv2d(2, width, 1, bias=False)  # aligned anatomies match by place as well as by look
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, 10 to begin with

    def forward(self, template: Tensor, query: Tensor, maps: Tensor, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        """Match two feature maps and carry the template's prompt across.

        Args:
            template, query: features (B, C, h, h).
            maps: the template's prompt maps (B, 2, 5, S, S).
            factors: the two factors of the prompting map M (`prompt_parser`), added to the cosine similarity.

        Returns:
            (B, AFFINITY_CHANNELS, h, h) on the query's grid.
        """
        size = query.shape[-1]
        at_template, at_query = self._embed(template), self._embed(query)  # (B, width, N)
        sharpness = self.sharpness.exp().clamp(max=100.0)
        left, right = (at_template * sharpness).transpose(1, 2), at_query.transpose(1, 2)
        if factors is not None:
            left, right = torch.cat([left, factors[0]], dim=-1), torch.cat([right, factors[1]], dim=-1)
        weights = (left @ right.transpose(1, 2)).softmax(dim=1)  # (B, N template, N query)
        grid = coordinates(size, weights).expand(template.shape[0], -1, -1, -1)
        carried = torch.cat([pool_to(maps.flatten(1, 2), size).to(weights.dtype), grid], dim=1)
        warped = carried.flatten(2) @ weights  # (B, channels, N query)
        displacement = warped[:, -2:] - grid.flatten(2)
        answer = torch.cat([warped[:, :-2], displacement, self._best_matches(at_template, at_query, maps)], dim=1)
        return answer.unflatten(2, (size, size))

    def _embed(self, features: Tensor) -> Tensor:
        embedded = self.project(features) + self.position(coordinates(features.shape[-1], features))
        return F.normalize(embedded.flatten(2), dim=1)

    def _best_matches(self, template: Tensor, query: Tensor, maps: Tensor) -> Tensor:
        """(B, 2, N): each query token's best cosine similarity to the structure and to the background.

        On a template pooled to `max_keys` tokens; -1 where the prompt says nothing of either.
        """
        size = min(round(template.shape[-1] ** 0.5), round(self.max_keys**0.5))
        template = pool_to(template.unflatten(2, (round(template.shape[-1] ** 0.5),) * 2), size).flatten(2)
        similarity = template.transpose(1, 2) @ query
        best = []
        for region in support(maps):
            inside = to_tokens(pool_to(region, size)).to(similarity.dtype)  # (B, N template, 1)
            best.append((similarity * inside - (1 - inside)).amax(dim=1, keepdim=True))
        return torch.cat(best, dim=1)


class Prototypes(nn.Module):
    """Similarity of every query pixel to the template's mean feature inside and outside the structure."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, template: Tensor, query: Tensor, maps: Tensor) -> Tensor:
        """Features (B, C, h, h), prompt maps (B, 2, 5, S, S); returns (B, 3, h, h): inside, outside, difference."""
        size = query.shape[-1]
        template, query = self.project(template), F.normalize(self.project(query), dim=1)
        similarities = []
        for region in support(maps):
            weights = pool_to(region, size).to(template.dtype)
            mean = (template * weights).sum(dim=(2, 3), keepdim=True)
            similarities.append((F.normalize(mean, dim=1) * query).sum(dim=1, keepdim=True))
        inside, outside = similarities
        return torch.cat([inside, outside, inside - outside], dim=1)
