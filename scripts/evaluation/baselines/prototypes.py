"""Prototype matching on our encoder's features, in the manner of PANet and ALPNet.

A prototype is the mean feature of a region of the template: one of the whole structure (PANet), and one of each cell
of a grid that lies in the structure or in the background (ALPNet). A query location belongs to the class whose
prototypes it resembles more. Nothing is learned here; what the encoder learned for One-Prompt is what it can use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.networks import Features
from lib.prompts import PromptType
from lib.slice_network import SliceNetwork
from lib.transforms import resize_logits, resize_mask
from lib.volumes import Stack
from scripts.evaluation.cases import Case
from scripts.evaluation.methods import Answer, Asked

LEVELS = (1, 2)  # encoder levels that are matched, strides 2 and 4: the best of seven choices on `dev`
CELL = 4  # feature pixels along a side of a grid cell
PURE = 0.95  # share of a cell that must belong to one class, as in ALPNet
SHARPNESS = 20.0  # of cosine similarities, as in both
SLICES = 12  # of a volume's stack that give prototypes, evenly over those that show the structure and the others


@dataclass(frozen=True, eq=False)
class _Prototypes:
    """Unit vectors (P, C) of structure and background."""

    inside: Tensor
    outside: Tensor


class PrototypeMatching:
    """A `TemplateMethod`. Prototypes of several templates are pooled."""

    name = "prototypes"
    prompts: tuple[PromptType, ...] = (PromptType.SEGLAB,)
    most_templates = 16

    def __init__(self, network: SliceNetwork, fingerprint: str) -> None:
        self.network, self.fingerprint = network, fingerprint

    def answers(self, asked: Sequence[Asked], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`."""
        remembered: dict[tuple[Case, int, int], _Prototypes] = {}
        for one in asked:
            stack = one.query.stack
            features = self.network.encode(stack, range(len(stack)))
            answer = {}
            for value in one.names:
                showing = [case for case in one.templates if case.mask(value).any()]
                for case in showing:
                    key = (case, value, stack.axis)
                    if key not in remembered:
                        remembered[key] = self._prototypes(case, value, stack.axis)
                if showing:
                    pooled = [remembered[case, value, stack.axis] for case in showing]
                    answer[value] = stack.restored(self._matched(features, pooled, stack))
            yield answer

    def _prototypes(self, template: Case, value: int, plane: int) -> _Prototypes:
        stack = Stack.of(template.image, plane=plane)
        masks = stack.slices_of(template.mask(value))
        showing = masks.any(axis=(1, 2))
        chosen = [*_spread(np.flatnonzero(showing), SLICES), *_spread(np.flatnonzero(~showing), SLICES // 3)]
        features = self.network.encode(stack, chosen)
        maps = torch.stack([matched_map(features[index]) for index in chosen])  # (n, C, h, h)
        size = maps.shape[-1]
        coverage = torch.stack([torch.from_numpy(resize_mask(masks[index], size)) for index in chosen])[:, None]
        return _Prototypes(
            F.normalize(torch.cat([_whole(maps, coverage), _cells(maps, coverage)])),
            F.normalize(torch.cat([_whole(maps, 1 - coverage), _cells(maps, 1 - coverage)])),
        )

    def _matched(self, features: dict[int, Features], pooled: Sequence[_Prototypes], stack: Stack) -> np.ndarray:
        inside = torch.cat([one.inside for one in pooled])
        outside = torch.cat([one.outside for one in pooled])
        masks = []
        for index in range(len(stack)):
            query = F.normalize(matched_map(features[index]), dim=0)
            logits = SHARPNESS * (_similarity(inside, query) - _similarity(outside, query))
            masks.append(resize_logits(logits[None, None], stack.slice(index).shape)[0, 0].numpy() > 0)
        return np.stack(masks)


def matched_map(features: Features) -> Tensor:
    """(C, h, h) of one slice: the matched levels, each of unit length at a location, at the finest one's size."""
    size = features[LEVELS[0]].shape[-1]
    levels = [F.normalize(features[level].float(), dim=0)[None] for level in LEVELS]
    return torch.cat([F.interpolate(level, (size, size), mode="bilinear") for level in levels], dim=1)[0].cpu()


def _whole(maps: Tensor, coverage: Tensor) -> Tensor:
    """(1, C) mean feature of a region (n, 1, h, h)."""
    return ((maps * coverage).sum(dim=(0, 2, 3)) / coverage.sum().clamp(min=1e-6))[None]


def _cells(maps: Tensor, coverage: Tensor) -> Tensor:
    """(P, C) mean features of the grid cells that lie in a region."""
    means, shares = F.avg_pool2d(maps, CELL), F.avg_pool2d(coverage, CELL)
    return means.permute(0, 2, 3, 1)[shares[:, 0] > PURE]


def _similarity(prototypes: Tensor, query: Tensor) -> Tensor:
    """(h, h): cosines to the prototypes (P, C), averaged with more weight on the more similar ones."""
    cosines = torch.einsum("pc,chw->phw", prototypes, query)
    return (cosines * (SHARPNESS * cosines).softmax(dim=0)).sum(dim=0)


def _spread(indices: np.ndarray, count: int) -> list[int]:
    if len(indices) <= count:
        return [int(index) for index in indices]
    return [int(indices[place]) for place in np.linspace(0, len(indices) - 1, count).round().astype(int)]
