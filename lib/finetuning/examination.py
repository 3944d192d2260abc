"""How good a network is on labelled studies, by the product's own measure: Dice from templates, and clicks needed.

The template Dice is that of `SliceSegmenter.segment`, with volumes cut and matched as in serving. Clicks are counted on
single slices with the usual simulated clicker. Fine-tuning asks about changed copies of a single study's slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lib.imaging.metrics import batch_dice, dice
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import normalise, resize_image
from lib.inference.templates import Template
from lib.learning.augmentation import STRONG, augment
from lib.learning.episodes import SMALLEST, Episode, RealTasks
from lib.learning.training import refined
from lib.networks import OnePrompt
from lib.networks.promptseg import PromptSeg
from lib.segmenters.second_opinion import SecondOpinion
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter

TARGET = 0.85  # Dice that clicking goes on for
MOST_CLICKS = 6  # counted for a slice that never gets there: one more than are made


@dataclass(frozen=True)
class Scores:
    """What a network scored.

    Attributes:
        dice: structure to the Dice (0 to 1) of each question about it.
        clicks: clicks that each slice needed.
    """

    dice: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    clicks: tuple[float, ...] = ()

    @property
    def mean_dice(self) -> float:
        """Mean over structures of their mean Dice."""
        return float(np.mean([np.mean(values) for values in self.dice.values()])) if self.dice else 0.0

    @property
    def mean_clicks(self) -> float:
        """Mean over slices."""
        return float(np.mean(self.clicks)) if self.clicks else 0.0

    def joined(self, other: Scores) -> Scores:
        """Both together."""
        names = [*self.dice, *(name for name in other.dice if name not in self.dice)]
        values = {name: (*self.dice.get(name, ()), *other.dice.get(name, ())) for name in names}
        return Scores(values, self.clicks + other.clicks)

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Scores:
        """From what `dataclasses.asdict` gave, also by way of JSON."""
        return cls({name: tuple(values) for name, values in record["dice"].items()}, tuple(record["clicks"]))

    def brief(self) -> dict[str, object]:
        """JSON-able summary."""
        return {
            "dice": round(self.mean_dice, 4),
            "clicks": round(self.mean_clicks, 2),
            "structures": {name: round(float(np.mean(values)), 4) for name, values in self.dice.items()},
            "questions": sum(map(len, self.dice.values())),
        }


def objection(before: Scores, after: Scores, most_loss: float) -> str:
    """Why `after` must not be published whatever it gains: nothing was asked, or a structure loses too much; else "".

    Args:
        most_loss: Dice that a structure may lose.
    """
    losses = {name: float(np.mean(before.dice[name]) - np.mean(after.dice[name])) for name in after.dice}
    if not losses:
        return "no question could be asked: the studies share no structure"
    worst = max(losses, key=lambda name: losses[name])
    return f"{worst} loses {losses[worst]:.3f} Dice" if losses[worst] > most_loss else ""


def template_dice(
    network: OnePrompt | PromptSeg,
    pairs: Sequence[tuple[Sequence[Template], Template]],
    device: str = "cpu",
    most: int = 4,
    seconds: Sequence[SecondOpinion | None] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Structure to the Dice of every query that shows it, answered as the product does.

    Args:
        network: on `device`.
        pairs: (templates, query with a label); structures that no template shows are not asked about.
        most: templates that answer for one structure.
        seconds: a second opinion on each query, or None for none.
    """
    segmenter = SliceSegmenter(network, device, SegmenterSettings(templates_per_query=most, quality_slices=0))
    dices: dict[str, list[float]] = {}
    for (templates, query), second in zip(pairs, seconds or [None] * len(pairs), strict=True):
        [answered] = answers_dice(segmenter, templates, query, [second])
        for name, value in answered.items():
            dices.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in dices.items()}


def answers_dice(
    segmenter: SliceSegmenter,
    templates: Sequence[Template],
    query: Template,
    seconds: Sequence[SecondOpinion | None],
    least: int = 1,
) -> list[dict[str, float]]:
    """With each of some second opinions: structure to the Dice of a query with a label; {} where none is shared.

    Structures that fewer than `least` templates show are not asked about.
    """
    shared = [name for name in query.structures if sum(name in one.structures for one in templates) >= least]
    if not shared or query.label is None:
        return [{} for _ in seconds]
    labels = {name: number for number, name in enumerate(shared, start=1)}
    truths = {name: query.label == query.names[name] for name in shared}
    return [
        {name: dice(mask == value, truths[name]) for name, value in labels.items()}
        for mask in segmenter.masks(query.image, templates, labels, seconds)
    ]


@torch.inference_mode()
def answer(network: OnePrompt | PromptSeg, episodes: Sequence[Episode]) -> np.ndarray:
    """(E,) Dice of each episode's one query, answered from its template's mask alone."""
    network.eval()
    device = next(network.parameters()).device
    images = torch.from_numpy(np.stack([episode.images[:2] for episode in episodes])).to(device)
    masks = np.stack([episode.masks[:2] for episode in episodes])
    maps = np.stack([rasterise(Prompt(mask=mask), mask.shape, mask.shape[0]) for mask in masks[:, 0]])
    encoded = [network.encode(images[:, member, None]) for member in (0, 1)]
    logits = network.decode(encoded[1], encoded[0], torch.from_numpy(maps).to(device))
    return batch_dice(logits > 0, torch.from_numpy(masks[:, 1:]).to(device))


@torch.inference_mode()
def clicks_needed(network: OnePrompt, episodes: Sequence[Episode]) -> tuple[float, ...]:
    """Clicks on each episode's query until its Dice reaches `TARGET`, each in the middle of the largest error."""
    if not episodes:
        return ()
    network.eval()
    device = next(network.parameters()).device
    images = torch.from_numpy(np.stack([episode.images[1] for episode in episodes]))[:, None].to(device)
    truths = np.stack([episode.masks[1] for episode in episodes])
    features = network.encode(images)
    needed = np.full(len(episodes), float(MOST_CLICKS))
    answers = np.zeros(truths.shape, np.float32)
    prompts = [Prompt()] * len(episodes)
    for clicks in range(1, MOST_CLICKS):
        prompts = [refined(*one) for one in zip(prompts, answers, truths, strict=True)]
        if clicks == 1:  # nothing was answered yet
            prompts = [prompt.replace(previous=None) for prompt in prompts]
        maps = np.stack([rasterise(prompt, truths.shape[1:], truths.shape[1]) for prompt in prompts])
        query_maps = torch.from_numpy(maps).to(device)
        answers = network.decode(features, features, query_maps, query_maps).sigmoid()[:, 0].float().cpu().numpy()
        reached = [dice(mask > 0.5, truth) >= TARGET for mask, truth in zip(answers, truths, strict=True)]
        needed[np.array(reached) & (needed == MOST_CLICKS)] = clicks
    return tuple(needed.tolist())


def questions(learnt: RealTasks, queried: RealTasks | None, size: int, most: int) -> list[tuple[int, Episode]]:
    """(structure's value, episode of template and query), always the same ones, at most `most` for a structure.

    Args:
        learnt: slices that templates are taken from: for each question the one that is most alike in place and area.
        queried: slices that are asked about; None asks about changed copies of the learnt ones.
        size: side of the network's input.
    """
    held_out = learnt if queried is None else queried
    pairs = []
    for value in np.unique(held_out.labels)[1:].tolist():
        showing = np.flatnonzero((held_out.labels == value).sum(axis=(1, 2)) >= 2 * SMALLEST)
        for query in showing[np.unique(np.linspace(0, len(showing) - 1, min(most, len(showing))).round().astype(int))]:
            episode = _question(learnt, held_out, int(query), value, size, copied=queried is None)
            if episode is not None:
                pairs.append((value, episode))
    return pairs


def _question(learnt: RealTasks, queried: RealTasks, query: int, value: int, size: int, copied: bool) -> Episode | None:
    template = query if copied else _alike(learnt, queried, query, value)
    if template is None:
        return None
    images = np.stack([learnt.images[template], queried.images[query]])
    masks = np.stack([learnt.labels[template] == value, queried.labels[query] == value])
    if copied:
        images, masks = augment(images, masks, np.random.default_rng((query, value)), size, STRONG)
    else:
        images = np.stack([resize_image(image, size) for image in images])
        masks = np.stack([resize_image(mask.astype(np.float32), size) > 0.5 for mask in masks])
    if min(mask.sum() for mask in masks) < SMALLEST:
        return None
    return Episode(np.stack([normalise(image) for image in images]), masks, "examination")


def _alike(learnt: RealTasks, queried: RealTasks, query: int, value: int) -> int | None:
    areas = (learnt.labels == value).mean(axis=(1, 2))
    if not areas.any():
        return None
    unlike = np.abs(areas - (queried.labels[query] == value).mean())
    if learnt.places is not None and queried.places is not None:
        unlike = np.abs(learnt.places - queried.places[query]) + 0.1 * unlike
    return int(np.argmin(np.where(areas > 0, unlike, np.inf)))
