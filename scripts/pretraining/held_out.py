"""The held-out score of a run: one or more SegLab templates a query, the same cases each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lib.imaging.metrics import batch_dice
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import resize_image, resize_mask
from lib.learning.episodes import RealTasks
from lib.networks.contract import SliceModel

PER_SET = 24  # queries of each data set
Pair = tuple[np.ndarray, np.ndarray]  # image and bool mask, both (S, S)


@dataclass(frozen=True)
class HeldOutCase:
    """One query of a data set with its templates."""

    dataset: str
    templates: list[Pair]
    query: Pair


def validation_cases(
    tasks: list[RealTasks], size: int, templates: int = 1, per_set: int = PER_SET, seed: int = 1
) -> list[HeldOutCase]:
    """Fixed cases across subjects, the same number from each data set.

    More templates are added to the same first ones, as far as a data set has other images of other subjects.
    """
    rng, cases = np.random.default_rng(seed), []
    further = np.random.default_rng((seed, templates))
    for task in tasks:
        for number in range(per_set if task.showing else 0):
            value = list(task.showing)[number % len(task.showing)]
            showing = task.showing[value]
            template = rng.choice(showing)
            query = rng.choice(showing[task.subjects[showing] != task.subjects[template]])
            others = showing[(task.subjects[showing] != task.subjects[query]) & (showing != template)]
            more = further.permutation(others)[: templates - 1]
            pairs = [_sized(task, int(n), value, size) for n in (template, *more)]
            cases.append(HeldOutCase(task.name, pairs, _sized(task, int(query), value, size)))
    return cases


def _sized(task: RealTasks, index: int, value: int, size: int) -> Pair:
    return resize_image(task.images[index], size), resize_mask(task.labels[index] == value, size) > 0.5


@torch.inference_mode()
def validate(network: SliceModel, cases: list[HeldOutCase], device: torch.device) -> dict[str, float]:
    """Mean Dice of each data set; `mean` over data sets."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        masks = [mask for _, mask in case.templates]
        images = np.stack([case.query[0], *(image for image, _ in case.templates)])
        maps = torch.from_numpy(np.stack([rasterise(Prompt(mask=mask), mask.shape, len(mask)) for mask in masks]))
        features = network.encode(torch.from_numpy(images)[:, None].to(device))
        template = tuple(level[None, 1:] for level in features)
        if len(masks) == 1:
            template, maps = tuple(level[:, 0] for level in template), maps[0]
        logits = network.decode(tuple(level[:1] for level in features), template, maps[None].to(device))
        truth = torch.from_numpy(case.query[1])[None, None].to(device)
        scores.setdefault(case.dataset, []).append(float(batch_dice(logits > 0, truth)[0]))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return means | {"mean": float(np.mean(list(means.values())))}
