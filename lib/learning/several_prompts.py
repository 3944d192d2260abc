"""One training step of PromptSeg: K prompts of an episode, and every other image of it is a query.

All images of an episode show one task and have masks, so that one encoding of them serves any division: K is drawn for
each step, the first K members are the prompts, the rest are queries, and the prompts are remembered once for all of
these. In some episodes one of several prompts is wrong, and the loss asks the network to find out which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lib.imaging.metrics import batch_dice
from lib.imaging.prompts import Prompt, PromptType, rasterise
from lib.learning.episodes import Episode
from lib.learning.simulated_prompts import practice_prompt
from lib.learning.training import StepResult, TrainingConfig, segmentation_loss
from lib.networks.contract import Features
from lib.networks.promptseg import PromptSeg

FEWEST_WITH_WRONG = 3  # of two prompts that contradict each other nobody could say which is wrong
SHIFT = (0.2, 0.5)  # of the image's side, by which a wrong mask is moved


@dataclass(frozen=True)
class SeveralPrompts:
    """What a step of PromptSeg has beside a `TrainingConfig`.

    Attributes:
        most: prompts of a step, at most; the number is drawn evenly from 1 on, and one query is always left.
        wrong: share of episodes with three prompts or more in which one is wrong.
        beta: of the divergence of the task tokens to their prior in the loss, per nat.
        prompt_types: share of each type.
    """

    most: int = 8
    wrong: float = 0.15
    beta: float = 3e-4
    prompt_types: dict[PromptType, float] = field(
        default_factory=lambda: {
            PromptType.SEGLAB: 0.76,
            PromptType.BBOX: 0.1,
            PromptType.DOODLE: 0.08,
            PromptType.CLICK: 0.06,
        }
    )


def several_prompts_step(
    network: PromptSeg,
    episodes: Sequence[Episode],
    config: TrainingConfig,
    several: SeveralPrompts,
    rng: np.random.Generator,
) -> StepResult:
    """Forward pass over a batch of episodes with the same number of queries; the caller differentiates `loss`.

    An image encoder whose parameters ask for no gradient is passed without one.
    """
    device = next(network.parameters()).device
    images = torch.from_numpy(np.stack([e.images for e in episodes])).to(device)  # (E, M, S, S)
    masks = np.stack([e.masks for e in episodes])
    tasks, members = masks.shape[:2]
    count = int(rng.integers(1, min(several.most, members - 1) + 1))
    shown, prompts, wrong = _prompts(images[:, :count], masks[:, :count], several, rng)
    frozen = not any(parameter.requires_grad for parameter in network.image_encoder.parameters())
    everything = torch.cat([shown, images[:, count:]], dim=1).flatten(0, 1)[:, None]
    with torch.set_grad_enabled(not frozen), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        encoded: Features = network.encode(everything)
    numbers = torch.arange(tasks * members, device=device).unflatten(0, (tasks, members))
    # chosen by number, which keeps their layout in memory; a slice of tasks and members would lose it
    templates = tuple(level[numbers[:, :count].flatten()].unflatten(0, (tasks, count)) for level in encoded)
    queries = tuple(level[numbers[:, count:].flatten()] for level in encoded)
    owner = np.repeat(np.arange(tasks), members - count)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        memory = network.remember(templates, prompts)
        logits = network.read(queries, memory.of_tasks(torch.from_numpy(owner).to(device)))
    target = torch.from_numpy(masks[:, count:].reshape(-1, 1, *masks.shape[2:])).to(device)
    loss = segmentation_loss(logits, target) + several.beta * memory.task.divergence.mean()
    modes = tuple("one wrong" if wrong[task] else _group(count) for task in owner)
    sources = tuple(episodes[task].source for task in owner)
    return StepResult(loss, batch_dice(logits > 0, target), modes, sources)


def _prompts(
    images: Tensor, masks: np.ndarray, several: SeveralPrompts, rng: np.random.Generator
) -> tuple[Tensor, Tensor, np.ndarray]:
    """The prompts' images (E, K, S, S), their maps (E, K, 2, 5, S, S), and which episodes have a wrong one (E,)."""
    tasks, count = masks.shape[:2]
    wrong = (rng.random(tasks) < several.wrong) & (count >= FEWEST_WITH_WRONG)
    masks, images = masks.copy(), images.clone()
    originals, original_masks = images.clone(), masks.copy()
    for task in np.flatnonzero(wrong):
        place, other = int(rng.integers(count)), int((task + 1 + rng.integers(max(1, tasks - 1))) % tasks)
        kind = rng.integers(3) if tasks > 1 else 0
        if kind == 0:
            masks[task, place] = _shifted(masks[task, place], rng)
        else:  # a mask of another structure; where it comes with its own image, a prompt of another image
            masks[task, place] = original_masks[other, place]
            if kind == 2:
                images[task, place] = originals[other, place]
    kinds, shares = list(several.prompt_types), list(several.prompt_types.values())
    prompts = [
        practice_prompt(mask, kinds[rng.choice(len(kinds), p=shares)], rng) if mask.any() else Prompt(mask=mask)
        for mask in masks.reshape(-1, *masks.shape[2:])
    ]
    size = masks.shape[-1]
    maps = np.stack([rasterise(prompt, (size, size), size) for prompt in prompts])
    return images, torch.from_numpy(maps).to(images.device).unflatten(0, (tasks, count)), wrong


def _shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask moved by a part of the image's side; it comes in again at the other side."""
    distance, angle = len(mask) * rng.uniform(*SHIFT), rng.uniform(0, 2 * np.pi)
    return np.roll(mask, (round(distance * np.sin(angle)), round(distance * np.cos(angle))), axis=(0, 1))


def _group(count: int) -> str:
    """Under which name the log keeps a number of prompts."""
    return "1 prompt" if count == 1 else "2 to 4 prompts" if count <= 4 else "5 or more prompts"
