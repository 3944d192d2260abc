"""Template adaptation: a few dozen training steps on the templates of one task, kept only where they help.

A copy of the network learns the task that the templates show: each episode is a slice of one, and slices of the others
or changed copies of it. The served network is not touched. One template of four or fewer is held out; the copy is kept
where it finds that template's structures better by the others than the network did. Examinations that need no second
template (changed copies of the one, reverse Dice) were tried and let harmful copies pass: docs/experiments.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from lib.imaging.prompts import PromptType
from lib.imaging.transforms import normalise, resize_image, resize_mask
from lib.imaging.volumes import Stack
from lib.inference.probabilities import dice_optimal_threshold
from lib.inference.slice_network import mask_maps
from lib.inference.templates import Template
from lib.learning.adapters import adapt as prepared
from lib.learning.augmentation import MILD, STRONG, augment
from lib.learning.episodes import SMALLEST, STORED_SIZE, Episode
from lib.learning.optimizers import OptimizerName, make_optimizer
from lib.learning.training import TrainingConfig, training_step
from lib.networks import OnePrompt

HELD_OUT = 0.25  # part of the templates, at least one


@dataclass(frozen=True)
class AdaptationSettings:
    """Numbers of the adaptation, see docs/experiments.md.

    Attributes:
        steps, learning_rate, optimizer: of the training; the rate falls to zero over the second half.
        mode: which weights learn, `full` or `norms` of `lib.learning.adapters`.
        queries: of each step, all with one template.
        examined: pairs of the examination.
        least_gain: Dice, 0 to 1, by which the copy must be better there.
        seed: of everything that is drawn.
    """

    steps: int = 30
    learning_rate: float = 2e-3
    optimizer: OptimizerName = "adamw"
    mode: Literal["full", "norms"] = "norms"
    queries: int = 2
    examined: int = 12
    least_gain: float = 0.01
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Slice:
    """One template slice (R, R), R `STORED_SIZE`, with a bool mask for each structure that it shows enough of."""

    template: str
    image: np.ndarray
    masks: dict[str, np.ndarray]


def adapt(
    network: OnePrompt,
    templates: Sequence[Template],
    settings: AdaptationSettings = AdaptationSettings(),
    checkpoint: Callable[[float], None] | None = None,
) -> OnePrompt | None:
    """A copy of the network that does the templates' task better; None where it does not, or where nobody can tell.

    Args:
        network: stays as it is.
        templates: of different subjects; their painted structures are learnt. Fewer than two cannot be examined.
        checkpoint: called with the fraction done before each step; may block, may raise to end it.
    """
    painted = [template for template in templates if template.painted]
    held_out = painted[len(painted) - max(1, round(HELD_OUT * len(painted))) :]
    learnt = [one for template in painted if template not in held_out for one in _slices_of(template)]
    unseen = [one for template in held_out for one in _slices_of(template)]
    pairs = _examination(learnt, unseen, settings)
    if not pairs:
        return None
    learner = trained(network, learnt, settings, checkpoint)
    gain = examined(learner, pairs) - examined(network, pairs)
    return learner if gain >= settings.least_gain else None


def trained(
    network: OnePrompt,
    slices: Sequence[_Slice],
    settings: AdaptationSettings,
    checkpoint: Callable[[float], None] | None = None,
) -> OnePrompt:
    """A copy of the network after `settings.steps` steps on the slices, in evaluation mode."""
    config = TrainingConfig(interactive=0.0, corrected=0.0, template_types={PromptType.SEGLAB: 1.0})
    learner = prepared(copy.deepcopy(network), settings.mode).train()
    optimizer = make_optimizer(learner, settings.optimizer, settings.learning_rate, 0.0)
    for step in range(settings.steps):
        if checkpoint:
            checkpoint(step / settings.steps)
        rng = np.random.default_rng((settings.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (1 - step / settings.steps))
        episode = _episode(slices, rng, network.config.image_size, settings.queries)
        result = training_step(learner, [episode], config, rng)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), config.clip)
        optimizer.step()
    return learner.requires_grad_(False).eval()


@torch.inference_mode()
def examined(network: OnePrompt, pairs: Sequence[tuple[_Slice, _Slice, str]]) -> float:
    """Mean Dice, 0 to 1, of pairs (template, query, structure)."""
    size, device, found = network.config.image_size, next(network.parameters()).device, []
    for template, query, name in pairs:
        images = np.stack([normalise(resize_image(one.image, size)) for one in (template, query)])
        maps = mask_maps(template.masks[name], size)[None]
        features = network.encode(torch.from_numpy(images)[:, None].to(device))
        asked, shown = (tuple(level[place : place + 1] for level in features) for place in (1, 0))
        logits = network.decode(asked, shown, torch.from_numpy(maps).to(device))[0, 0].float().cpu().numpy()
        answer, truth = logits > dice_optimal_threshold(logits, 0.2), resize_mask(query.masks[name], size) >= 0.5
        found.append(2 * float((answer & truth).sum()) / float(answer.sum() + truth.sum()))
    return float(np.mean(found))


def _episode(slices: Sequence[_Slice], rng: np.random.Generator, size: int, queries: int) -> Episode:
    """One structure; half of the episodes show it in copies of one slice, the others across templates if there are any.

    The task itself is not changed as in pretraining: no flips, no inverted contrast.
    """
    names = sorted({name for one in slices for name in one.masks})
    while True:
        name = names[rng.integers(len(names))]
        showing = [one for one in slices if name in one.masks]
        first = showing[rng.integers(len(showing))]
        others = [one for one in showing if one.template != first.template]
        copies = not others or rng.random() < 0.5
        members = [first] + [first if copies else others[rng.integers(len(others))] for _ in range(queries)]
        images, masks = augment(
            np.stack([one.image for one in members]),
            np.stack([one.masks[name] for one in members]),
            rng,
            size,
            STRONG if copies else MILD,
            new_task=False,
        )
        if (masks.sum(axis=(1, 2)) >= SMALLEST).all():
            return Episode(np.stack([normalise(image) for image in images]), masks, "templates")


def _examination(
    learnt: Sequence[_Slice], unseen: Sequence[_Slice], settings: AdaptationSettings
) -> list[tuple[_Slice, _Slice, str]]:
    """Pairs of a slice that is learnt from and one that is not, with a structure that both show."""
    pairs = [(one, other, name) for one in learnt for other in unseen for name in one.masks if name in other.masks]
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    return [pairs[place] for place in order[: settings.examined]]


def _slices_of(template: Template) -> list[_Slice]:
    """The slices that show enough of a painted structure to practise on."""
    assert template.label is not None
    stack, found = Stack.of(template.image), []
    masks = {name: stack.slices_of(template.label == template.names[name]) for name in sorted(template.painted)}
    for index in range(len(stack)):
        here = {name: slices[index] for name, slices in masks.items() if slices[index].any()}
        small = {name: resize_mask(mask, STORED_SIZE) >= 0.5 for name, mask in here.items()}
        shown = {name: mask for name, mask in small.items() if mask.sum() >= 2 * SMALLEST}
        if shown:
            found.append(_Slice(template.id, normalise(resize_image(stack.slice(index), STORED_SIZE)), shown))
    return found
