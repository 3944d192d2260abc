"""The held-out score of a run: one SegLab template a query, the same pairs each time."""

from __future__ import annotations

import numpy as np
import torch

from lib.imaging.metrics import batch_dice
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import resize_image, resize_mask
from lib.learning.episodes import RealTasks
from lib.networks import OnePrompt


def validation_pairs(tasks: list[RealTasks], size: int, per_set: int = 24, seed: int = 1) -> list[tuple]:
    """Fixed (image, mask, image, mask) pairs across subjects, the same number from each data set."""
    rng, pairs = np.random.default_rng(seed), []
    for task in tasks:
        for number in range(per_set if task.showing else 0):
            value = list(task.showing)[number % len(task.showing)]
            showing = task.showing[value]
            template = rng.choice(showing)
            query = rng.choice(showing[task.subjects[showing] != task.subjects[template]])
            pairs.append((task.name, *(_sized(task, n, value, size) for n in (template, query))))
    return pairs


def _sized(task: RealTasks, index: int, value: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    return resize_image(task.images[index], size), resize_mask(task.labels[index] == value, size) > 0.5


@torch.inference_mode()
def validate(network: OnePrompt, pairs: list[tuple], device: torch.device) -> dict[str, float]:
    """Mean Dice of each data set, one SegLab template a query; `mean` over data sets."""
    scores: dict[str, list[float]] = {}
    for name, (template, mask), (query, truth) in pairs:
        images = torch.from_numpy(np.stack([query, template]))[:, None].to(device)
        maps = torch.from_numpy(rasterise(Prompt(mask=mask), mask.shape, len(mask)))[None].to(device)
        logits = network(images[:1], images[1:], maps)
        scores.setdefault(name, []).append(
            float(batch_dice(logits > 0, torch.from_numpy(truth)[None, None].to(device))[0])
        )
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return means | {"mean": float(np.mean(list(means.values())))}
