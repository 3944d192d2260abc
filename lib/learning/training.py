"""One training step of One-Prompt, the same in pretraining and in fine-tuning: its modes, its loss, its defaults.

Every query of an episode is answered in one of three modes, because the product meets all of them:
- one-shot: by the prompted template alone;
- interactive: the query is its own template, over several rounds of corrective clicks;
- corrected: by the template first, then corrected by clicks on the query.
Rounds before the last run without gradient, on the same encodings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lib.imaging.metrics import batch_dice
from lib.imaging.prompts import PREVIOUS, Prompt, PromptType, rasterise
from lib.learning.episodes import Episode
from lib.learning.optimizers import OptimizerName
from lib.learning.simulated_prompts import corrective_click, practice_prompt
from lib.networks import Features, OnePrompt


@dataclass(frozen=True)
class TrainingConfig:
    """Defaults of a training step.

    Attributes:
        optimizer, learning_rate, weight_decay: see `lib.learning.optimizers`.
        warmup, clip: steps of linear warm-up, largest gradient norm.
        ema: decay of the exponential moving average of the weights.
        interactive, corrected: share of queries in these modes; the rest is one-shot.
        template_types: share of each prompt type on the template.
        self_prompt: share of templates without a mask that first answer for themselves.
        rounds: probability of 0, 1, 2, ... corrective clicks in the interactive mode.
        several: share of steps in which the other queries of an episode, with their masks, are further templates; of
            networks that read several at once.
        bf16: automatic mixed precision in bfloat16.
    """

    optimizer: OptimizerName = "muon"
    learning_rate: float = 8e-4
    weight_decay: float = 0.02
    warmup: int = 300
    clip: float = 1.0
    ema: float = 0.999
    interactive: float = 0.32
    corrected: float = 0.1
    template_types: dict[PromptType, float] = field(
        default_factory=lambda: {
            PromptType.SEGLAB: 0.52,
            PromptType.BBOX: 0.18,
            PromptType.DOODLE: 0.16,
            PromptType.CLICK: 0.14,
        }
    )
    self_prompt: float = 0.8
    rounds: tuple[float, ...] = (0.4, 0.25, 0.2, 0.15)
    several: float = 0.25
    bf16: bool = True


@dataclass(frozen=True)
class StepResult:
    """What one step measured: the loss to differentiate and the Dice of every query with its mode."""

    loss: Tensor
    dice: np.ndarray
    modes: tuple[str, ...]
    sources: tuple[str, ...]


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy plus Dice, plain sum, as in the paper; logits and target (B, 1, S, S), mean over B."""
    target = target.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    inside = logits.sigmoid()
    overlap = (inside * target).sum(dim=(1, 2, 3))
    total = inside.sum(dim=(1, 2, 3)) + target.sum(dim=(1, 2, 3))
    return cross_entropy + 1 - ((2 * overlap + 1) / (total + 1)).mean()


def training_step(
    network: OnePrompt, episodes: Sequence[Episode], config: TrainingConfig, rng: np.random.Generator
) -> StepResult:
    """Forward pass over a batch of episodes with the same number of queries; the caller differentiates `loss`."""
    device = next(network.parameters()).device
    images = torch.from_numpy(np.stack([e.images for e in episodes]))  # (E, 1 + Q, S, S)
    masks = np.stack([e.masks for e in episodes])
    count, members = masks.shape[:2]
    with _autocast(device, config):
        encoded = network.encode(images.flatten(0, 1)[:, None].to(device))
    pyramids = [level.unflatten(0, (count, members)) for level in encoded]
    templates = tuple(level[:, 0] for level in pyramids)
    queries = tuple(level[:, 1:].flatten(0, 1) for level in pyramids)
    truths = masks[:, 1:].reshape(-1, *masks.shape[2:])
    template_maps = _template_maps(network, templates, masks[:, 0], config, rng)

    owner = np.repeat(np.arange(count), members - 1)
    modes = _modes(truths, config, rng)
    alone = torch.from_numpy(modes == "interactive").to(device)
    mine = torch.from_numpy(owner).to(device)
    template = tuple(
        torch.where(alone[:, None, None, None], q, t[mine]) for q, t in zip(queries, templates, strict=True)
    )
    others = None
    if members > 2 and network.config.most_templates >= members - 1 and rng.random() < config.several:
        others = _other_queries(queries, masks[:, 1:])
    batch = _Batch(queries, template, template_maps[mine], others)
    shown, query_maps = _rounds(network, batch, truths, modes, config, rng)
    with _autocast(device, config):
        logits = batch.decode(network, slice(None), shown, query_maps)
    target = torch.from_numpy(truths)[:, None].to(device)
    sources = tuple(episodes[e].source for e in owner)
    return StepResult(segmentation_loss(logits, target), batch_dice(logits > 0, target), tuple(modes), sources)


@dataclass(frozen=True)
class _Batch:
    """B queries with their templates.

    Attributes:
        queries, template: features, each level (B, C, h, w).
        template_maps: (B, 2, 5, S, S).
        others: features (B, K, C, h, w) and maps (B, K, 2, 5, S, S) of further templates.
    """

    queries: Features
    template: Features
    template_maps: Tensor
    others: tuple[Features, Tensor] | None = None

    def decode(self, network: OnePrompt, picked: Tensor | slice, shown: Tensor, query_maps: Tensor) -> Tensor:
        """Logits of the queries `picked`, with these maps (B', 2, 5, S, S) on their template and on themselves."""
        query = tuple(level[picked] for level in self.queries)
        template = tuple(level[picked] for level in self.template)
        if self.others is None:
            return network.decode(query, template, shown, query_maps)
        features, maps = self.others
        template = tuple(
            torch.cat([first[:, None], further[picked]], dim=1)
            for first, further in zip(template, features, strict=True)
        )
        return network.decode(query, template, torch.cat([shown[:, None], maps[picked]], dim=1), query_maps)


def _other_queries(queries: Features, masks: np.ndarray) -> tuple[Features, Tensor]:
    """Each query's companions in its episode, with their masks (E, Q, S, S), as templates of it."""
    count, each = masks.shape[:2]
    who = torch.tensor([[q for q in range(each) if q != own] for own in range(each)], device=queries[0].device)
    features = tuple(level.unflatten(0, (count, each))[:, who].flatten(0, 1) for level in queries)
    flat = masks.reshape(-1, *masks.shape[2:])
    maps = _rasterised([Prompt(mask=mask) for mask in flat], masks.shape[2:], queries[0].device)
    return features, maps.unflatten(0, (count, each))[:, who].flatten(0, 1)


def _autocast(device: torch.device, config: TrainingConfig) -> torch.autocast:
    # A fresh context for every pass: the cache of cast weights must not carry over from a pass without gradient.
    return torch.autocast(device.type, torch.bfloat16, enabled=config.bf16)


def _template_maps(
    network: OnePrompt, templates: Features, masks: np.ndarray, config: TrainingConfig, rng: np.random.Generator
) -> Tensor:
    """(E, 2, 5, S, S) prompts on the templates; some that are no mask first answer for themselves (PREVIOUS)."""
    device = templates[0].device
    kinds = [_draw_type(config, rng) if mask.any() else PromptType.SEGLAB for mask in masks]
    prompts = [practice_prompt(mask, kind, rng) for mask, kind in zip(masks, kinds, strict=True)]
    maps = _rasterised(prompts, masks.shape[1:], device)
    chosen = [n for n, kind in enumerate(kinds) if kind is not PromptType.SEGLAB and rng.random() < config.self_prompt]
    if chosen:
        own = tuple(level[chosen].detach() for level in templates)
        with torch.no_grad(), _autocast(device, config):
            answer = network.decode(own, own, maps[chosen], maps[chosen]).sigmoid()[:, 0]
        maps[chosen, 0, PREVIOUS], maps[chosen, 1, PREVIOUS] = answer, 1 - answer
    return maps


def _draw_type(config: TrainingConfig, rng: np.random.Generator) -> PromptType:
    kinds = list(config.template_types)
    return kinds[rng.choice(len(kinds), p=np.array(list(config.template_types.values())))]


def _modes(truths: np.ndarray, config: TrainingConfig, rng: np.random.Generator) -> np.ndarray:
    probabilities = [config.interactive, config.corrected, max(0.0, 1 - config.interactive - config.corrected)]
    modes = rng.choice(["interactive", "corrected", "one-shot"], len(truths), p=probabilities)
    modes[(modes == "interactive") & ~truths.any(axis=(1, 2))] = "one-shot"  # nothing to click on
    return modes


def _rounds(
    network: OnePrompt,
    batch: _Batch,
    truths: np.ndarray,
    modes: np.ndarray,
    config: TrainingConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Prompt maps on template and query for the last, differentiated pass: each (B, 2, 5, S, S)."""
    shape, template_maps = truths.shape[1:], batch.template_maps
    device = template_maps.device
    prompts = [
        _first_prompt(truth, rng) if mode == "interactive" else Prompt()
        for truth, mode in zip(truths, modes, strict=True)
    ]
    query_maps = _rasterised(prompts, shape, device)
    alone = torch.from_numpy(modes == "interactive").to(device)[:, None, None, None, None]
    rounds = rng.choice(len(config.rounds), len(modes), p=np.array(config.rounds))
    rounds[modes == "corrected"] = np.maximum(1, rounds[modes == "corrected"])
    rounds[modes == "one-shot"] = 0
    for done in range(int(rounds.max(initial=0))):
        active = np.flatnonzero(rounds > done)
        picked = torch.from_numpy(active).to(device)
        shown = torch.where(alone[picked], query_maps[picked], template_maps[picked])
        with torch.no_grad(), _autocast(device, config):
            answers = batch.decode(network, picked, shown, query_maps[picked]).sigmoid()[:, 0].cpu().numpy()
        for number, answer in zip(active, answers, strict=True):
            prompts[number] = refined(prompts[number], answer, truths[number])
        query_maps[picked] = _rasterised([prompts[n] for n in active], shape, device)
    return torch.where(alone, query_maps, template_maps), query_maps


def refined(prompt: Prompt, answer: np.ndarray, truth: np.ndarray) -> Prompt:
    """The prompt after one more corrective click, with `answer` (probabilities) as the previous mask."""
    click = corrective_click(answer > 0.5, truth)
    prompt = prompt.replace(previous=answer)
    if click is None:
        return prompt
    point, is_foreground = click
    side = "foreground" if is_foreground else "background"
    return prompt.replace(**{side: (*getattr(prompt, side), point)})


def _first_prompt(truth: np.ndarray, rng: np.random.Generator) -> Prompt:
    kind = (PromptType.CLICK, PromptType.BBOX, PromptType.DOODLE)[rng.choice(3, p=[0.5, 0.28, 0.22])]
    prompt = practice_prompt(truth, kind, rng)
    if kind is PromptType.CLICK:  # most users begin with one click
        return prompt.replace(foreground=prompt.foreground[:1], background=()) if rng.random() < 0.7 else prompt
    return prompt


def _rasterised(prompts: Sequence[Prompt], shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([rasterise(prompt, shape, shape[0]) for prompt in prompts])).to(device)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a network's weights, with a shorter memory at the start.

    `module` is the averaged network in evaluation mode, `update_parameters` takes a step in, and `n_averaged` is one
    more than the steps that were taken in, because PyTorch would copy the weights of the first one.
    """

    @torch.no_grad()
    def take_in(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        torch._foreach_lerp_(list(averages), list(weights), 1 - min(decay, (1 + steps) / (10 + steps)))

    average = AveragedModel(network, multi_avg_fn=take_in, use_buffers=True)
    average.n_averaged.fill_(1)
    return average.requires_grad_(False).eval()


def learning_rate_at(step: int, total: int, config: TrainingConfig, cooldown: float = 0.2) -> float:
    """Warm-up, constant, then linear to zero over the last `cooldown` of `total` steps.

    A constant plateau lets a later run go on from the checkpoint before the cool-down.
    """
    start = total * (1 - cooldown)
    falling = 1.0 if step < start else max(0.0, (total - step) / max(1.0, total - start))
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup)) * falling
