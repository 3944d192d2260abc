"""What one level of the decoder reads of the templates: all that does not depend on the query, made once for many.

A level is read through a grid of few tokens. At the finest level that grid would blur small structures into what
surrounds them, so that its keys for matching are split: in each cell, the mean feature inside the structure and the
mean feature outside are keys of their own (masked pooling, as in Iris, CVPR 2025, but local).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.blocks import coordinates, pool_to
from lib.networks.correspondence import support as regions_of
from lib.networks.patch.blocks import dense, expand_first, flat, grid_side

SMALLEST_WEIGHT = 1e-6  # of a cell, so that its logarithm exists


@dataclass(frozen=True)
class Support:
    """K templates at one level, B queries' or one for all: every tensor (B or 1, K, tokens, channels).

    Attributes:
        tokens: features on the grid.
        p1, p2: prompt embeddings on the grid.
        keys: features to be matched; the grid's own, or split into inside and outside.
        carried: prompt maps (10) and place (2) at each key.
        log_weights: (B or 1, K, keys) logarithm of the share of its cell that a key stands for.
        inside, outside: (B or 1, K, keys) how far a key is known to be structure, and background.
        place: (1, grid tokens, 2) coordinates of the grid's tokens in -1..1.
    """

    tokens: Tensor
    p1: Tensor
    p2: Tensor
    keys: Tensor
    carried: Tensor
    log_weights: Tensor
    inside: Tensor
    outside: Tensor
    place: Tensor

    @property
    def side(self) -> int:
        """Of the grid, in tokens."""
        return round(self.tokens.shape[2] ** 0.5)

    def of_tasks(self, tasks: Tensor) -> Support:
        """Those of B that have these numbers, which may repeat."""
        chosen = {part.name: getattr(self, part.name)[tasks] for part in fields(self) if part.name != "place"}
        return Support(place=self.place, **chosen)


def map_pyramid(maps: Tensor) -> dict[int, Tensor]:
    """Prompt maps (B, 2, 5, S, S) to `{level: (B, 12, S / 2**level, ...)}`, levels 1 to 4.

    The ten maps, then what is known to be structure and what background.
    """
    level = torch.cat([maps.flatten(1, 2), *regions_of(maps)], dim=1).contiguous(memory_format=torch.channels_last)
    pyramid = {}
    for number in range(1, 5):
        pyramid[number] = level = F.avg_pool2d(level, 2)
    return pyramid


def support_level(features: Tensor, prompts: tuple[Tensor, Tensor], maps: Tensor, most: int, split: bool) -> Support:
    """One level's support.

    Args:
        features: (B, K, C, h, h).
        prompts: (p1, p2), each (B * K, h * h, C).
        maps: the templates' maps at this level, (B * K, 12, h, h) of `map_pyramid`.
        most: tokens of the grid, at most.
        split: inside and outside of the structure become keys of their own.
    """
    count, size = features.shape[:2], features.shape[-1]
    side = grid_side(size, most)
    features = features.flatten(0, 1)

    def on_grid(what: Tensor) -> Tensor:
        return flat(pool_to(what, side))

    def of_templates(what: Tensor) -> Tensor:
        return what.unflatten(0, count)

    tokens = on_grid(features)
    place = coordinates(size, features).expand(len(features), -1, -1, -1)
    about = torch.cat([maps[:, :-2], place, maps[:, -2:]], dim=1)
    if split:
        inside = maps[:, -2:-1]
        weights = (inside, 1 - inside)
        shares = [on_grid(weight).clamp(min=SMALLEST_WEIGHT) for weight in weights]
        # float32, because a mean of few pixels divides one small number by another
        keys, about = (
            torch.cat([on_grid(what * w).float() / s.float() for w, s in zip(weights, shares, strict=True)], dim=1)
            for what in (features, about)
        )
        keys, about = keys.to(features.dtype), about.to(features.dtype)
        log_weights = torch.cat(shares, dim=1).float().log()[..., 0]
    else:
        keys, about = tokens, on_grid(about)
        log_weights = about.new_zeros(about.shape[:2])
    p1, p2 = (of_templates(on_grid(dense(prompt))) for prompt in prompts)
    carried, sure = of_templates(about[..., :-2]), of_templates(about[..., -2:])
    return Support(
        tokens=of_templates(tokens),
        p1=p1,
        p2=p2,
        keys=of_templates(keys),
        carried=carried,
        log_weights=of_templates(log_weights),
        inside=sure[..., 0],
        outside=sure[..., 1],
        place=flat(coordinates(side, features)),
    )


class PatchPrototypes(nn.Module):
    """Similarity of every place of the query to the templates' mean features inside and outside the structure."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.metric = nn.Linear(channels, channels)  # of the few means instead of the many places

    def directions(self, template: Tensor, maps: Tensor) -> Tensor:
        """What a query is compared with, (B or 1, 2, C): the templates' mean features inside and outside.

        Args:
            template: (B or 1, K, C, h, h).
            maps: the templates' maps at this level, (B or 1 times K, 12, h, h) of `map_pyramid`.
        """
        weights = maps[:, -2:].flatten(2)  # (B' * K, 2, N)
        sums = (weights @ flat(template.flatten(0, 1))).unflatten(0, template.shape[:2]).sum(dim=1)
        return F.normalize(self.metric(F.normalize(sums.float(), dim=-1)).float(), dim=-1).to(template.dtype)

    def forward(self, query: Tensor, directions: Tensor) -> Tensor:
        """Similarities at one level, of a query (B, C, h, h): (B, h * h, 3), inside, outside, difference."""
        places = flat(query)
        lengths = torch.linalg.vector_norm(places, dim=-1, keepdim=True).clamp(min=1e-3)
        near = places @ directions.expand(len(query), -1, -1).transpose(1, 2) / lengths
        return torch.cat([near, near[..., :1] - near[..., 1:]], dim=-1)


def of_queries(value: Tensor, batch: int) -> Tensor:
    """(B or 1, K, M, ...) to (B, K * M, ...): all templates' tokens in a row."""
    return expand_first(value.flatten(1, 2), batch)
