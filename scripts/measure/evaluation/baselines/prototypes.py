"""Prototype matching on our encoder's features, in the manner of PANet and ALPNet.

A prototype is the mean feature of a region of the template: one of the whole structure (PANet), and one of each cell
of a grid that lies in the structure or in the background (ALPNet). A query location belongs to the class whose
prototypes it resembles more. Nothing is learned here; what the encoder learned for One-Prompt is what it can use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.imaging.prompts import PromptType
from lib.imaging.transforms import resize_logits, resize_mask
from lib.imaging.volumes import Stack
from lib.inference.slice_network import SliceNetwork
from lib.networks import Features
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, TemplateQuestion

LEVELS = (1, 2)  # encoder levels that are matched, strides 2 and 4: the best of seven choices on `dev`
CELL = 4  # feature pixels along a side of a grid cell
PURE = 0.95  # share of a cell that must belong to one class, as in ALPNet
SHARPNESS = 20.0  # of cosine similarities, as in both
NEIGHBOURS = (
    1  # template slices either way of the place that corresponds to a query slice; ALPNet uses thirds of a stack
)


@dataclass(frozen=True, eq=False)
class _Prototypes:
    """Unit vectors (P, C) of structure and background on one slice; none of a structure that it does not show."""

    inside: Tensor
    outside: Tensor


class PrototypeMatching:
    """A `TemplateMethod`. Prototypes of several templates are pooled.

    In a volume a query slice takes the prototypes of the template slices at its relative place in the stack.
    """

    name = "prototypes"
    prompts: tuple[PromptType, ...] = (PromptType.SEGLAB,)
    most_templates = 16

    def __init__(self, network: SliceNetwork, fingerprint: str) -> None:
        self.network, self.fingerprint = network, fingerprint

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`."""
        remembered: dict[tuple[Case, int, int], list[_Prototypes]] = {}
        for one in questions:
            stack = one.query.stack
            features = self.network.encode(stack, range(len(stack)))
            answer = {}
            for value in one.names:
                showing = [(case, value, stack.axis) for case in one.templates if case.mask(value).any()]
                for key in showing:
                    if key not in remembered:
                        remembered[key] = self._prototypes(*key)
                if showing:
                    templates = [remembered[key] for key in showing]
                    answer[value] = stack.restored(_matched(features, templates, stack))
            yield answer

    def _prototypes(self, template: Case, value: int, plane: int) -> list[_Prototypes]:
        """Of each slice of a template, cut in the given plane."""
        stack = Stack.of(template.image, plane=plane)
        features = self.network.encode(stack, range(len(stack)))
        prototypes = []
        for index, mask in enumerate(stack.slices_of(template.mask(value))):
            map_ = matched_map(features[index])
            coverage = torch.from_numpy(resize_mask(mask, map_.shape[-1]))
            prototypes.append(_Prototypes(_region(map_, coverage), _region(map_, 1 - coverage)))
        return prototypes


def _matched(features: Mapping[int, Features], templates: Sequence[Sequence[_Prototypes]], stack: Stack) -> np.ndarray:
    """Bool (N, H, W): the query's slices, each against the prototypes at its place."""
    masks = []
    for index in range(len(stack)):
        near = [one for slices in templates for one in _near(slices, index / max(1, len(stack) - 1))]
        inside, outside = (torch.cat([getattr(one, side) for one in near]) for side in ("inside", "outside"))
        shape = stack.slice(index).shape
        if len(inside) and len(outside):
            query = F.normalize(matched_map(features[index]), dim=0)
            logits = _similarity(inside, query) - _similarity(outside, query)
            masks.append(resize_logits(logits[None, None], shape)[0, 0].numpy() > 0)
        else:
            masks.append(np.full(shape, bool(len(inside))))
    return np.stack(masks)


def _near(slices: Sequence[_Prototypes], place: float) -> Sequence[_Prototypes]:
    """The slices around a relative place, 0 to 1, in a stack."""
    middle = round(place * (len(slices) - 1))
    return slices[max(0, middle - NEIGHBOURS) : middle + NEIGHBOURS + 1]


def matched_map(features: Features) -> Tensor:
    """(C, h, h) of one slice: the matched levels, each of unit length at a location, at the finest one's size."""
    size = features[LEVELS[0]].shape[-1]
    levels = [F.normalize(features[level].float(), dim=0)[None] for level in LEVELS]
    return torch.cat([F.interpolate(level, (size, size), mode="bilinear") for level in levels], dim=1)[0].cpu()


def _region(map_: Tensor, coverage: Tensor) -> Tensor:
    """(P, C) unit vectors of a region (h, h) on a map (C, h, h): the whole, and the grid cells that lie in it."""
    if coverage.sum() == 0:
        return map_.new_zeros(0, len(map_))
    whole = (map_ * coverage).sum(dim=(1, 2)) / coverage.sum()
    cells, shares = F.avg_pool2d(map_, CELL), F.avg_pool2d(coverage[None], CELL)[0]
    return F.normalize(torch.cat([whole[None], cells[:, shares > PURE].T]))


def _similarity(prototypes: Tensor, query: Tensor) -> Tensor:
    """(h, h): cosines to the prototypes (P, C), averaged with more weight on the more similar ones."""
    cosines = torch.einsum("pc,chw->phw", prototypes, query)
    return (cosines * (SHARPNESS * cosines).softmax(dim=0)).sum(dim=0)
