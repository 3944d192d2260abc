"""The weights in the repository: what they are, and that they do what they are there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import normalise, resize_image
from lib.inference.templates import Template
from lib.learning.simulated_prompts import deepest_point
from lib.learning.synthetic import synthetic_task
from lib.learning.training import refined
from lib.networks import OnePrompt
from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG, PromptSegSegmenter
from lib.segmenters.settings import SegmenterSettings
from scripts.phantoms.phantom import LABELS, make_phantom

SIZE = 128
# Seeds that pretraining never drew: it uses pairs (seed, number), these are single numbers.
TASKS = [synthetic_task(np.random.default_rng(10_000 + number), SIZE) for number in range(30)]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


def cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(template image, its mask, query image, its mask) of the largest structure that is no background."""
    found = []
    for task in TASKS:
        sizes = np.bincount(task.labels[0].ravel(), minlength=2)
        sizes[0] = 0
        masks = task.labels == sizes.argmax()
        if 200 < masks[0].sum() < 0.5 * SIZE**2 and masks[1].any():
            images = [normalise(resize_image(image, SIZE)) for image in task.images[:2]]
            found.append((images[0], masks[0], images[1], masks[1]))
    return found


@torch.inference_mode()
def test_one_prompted_template_beats_copying_its_mask_on_tasks_never_seen():
    network, ours, copied = load_network(SHIPPED_WEIGHTS), [], []
    for template, mask, query, truth in cases():
        images = torch.from_numpy(np.stack([query, template]))[:, None]
        maps = torch.from_numpy(rasterise(Prompt(mask=mask), mask.shape, SIZE))[None]
        ours.append(dice((network(images[:1], images[1:], maps) > 0)[0, 0].numpy(), truth))
        copied.append(dice(mask, truth))
    assert len(ours) >= 10
    assert np.mean(ours) > np.mean(copied) + 0.25


@torch.inference_mode()
def test_each_click_makes_the_interactive_answer_better_on_average():
    network, rounds = load_network(SHIPPED_WEIGHTS), []
    for image, mask, _, _ in cases()[::2]:
        features = network.encode(torch.from_numpy(image)[None, None])
        prompt, scores = Prompt(foreground=(deepest_point(mask),)), []
        for _ in range(5):
            maps = torch.from_numpy(rasterise(prompt, mask.shape, SIZE))[None]
            answer = network.decode(features, features, maps, maps)[0, 0].sigmoid().numpy()
            scores.append(dice(answer > 0.5, mask))
            prompt = refined(prompt, answer, mask)
        rounds.append(scores)
    first, *_, last = np.mean(rounds, axis=0)
    assert last > first + 0.05


def steps_of(provenance: dict) -> int:
    """Of the run and of all that it began with."""
    parents = provenance.get("parents") or [parent for parent in [provenance.get("parent")] if parent]
    return provenance["steps"] + max((steps_of(parent) for parent in parents), default=0)


def test_they_are_small_and_say_where_they_come_from():
    provenance = read_provenance(SHIPPED_WEIGHTS)
    assert SHIPPED_WEIGHTS.stat().st_size < 25e6
    assert load_network(SHIPPED_WEIGHTS).config.name == "small"
    assert provenance["terms"] == "open"
    assert provenance["datasets"]
    assert steps_of(provenance) > 10_000


def test_the_model_card_is_about_these_weights():
    card = (SHIPPED_WEIGHTS.parents[3] / "docs" / "model-card.md").read_text()
    assert weights_hash(load_network(SHIPPED_WEIGHTS)) in card
    for dataset in read_provenance(SHIPPED_WEIGHTS)["datasets"]:
        assert f"| {dataset} |" in card


@torch.inference_mode()
@pytest.mark.parametrize(
    ("file", "kind"), [("oneprompt_small_v2.safetensors", OnePrompt), ("promptseg_small.safetensors", PromptSeg)]
)
def test_further_weights_are_read_and_follow_a_template_better_than_copying_its_mask(file, kind):
    path = SHIPPED_WEIGHTS.with_name(file)
    assert path.stat().st_size < 16 * 2**20
    network, ours, copied = load_network(path, "cpu", kind), [], []
    for template, mask, query, truth in cases():
        query_features, features = (network.encode(torch.from_numpy(image)[None, None]) for image in (query, template))
        maps = torch.from_numpy(rasterise(Prompt(mask=mask), mask.shape, SIZE))[None]
        ours.append(dice((network.decode(query_features, features, maps) > 0)[0, 0].numpy(), truth))
        copied.append(dice(mask, truth))
    assert np.mean(ours) > np.mean(copied) + 0.1


def test_one_wrong_template_of_four_leaves_promptseg_most_of_the_organ_on_phantoms():
    network = load_network(SHIPPED_PROMPTSEG, "cpu", PromptSeg)
    segmenter = PromptSegSegmenter(network, settings=SegmenterSettings(precision="float32", quality_slices=0))

    def liver(seed: int) -> tuple[Image, np.ndarray]:
        phantom = make_phantom(seed)
        organ = phantom.label == LABELS["liver"]
        largest = int(organ.sum(axis=(0, 1)).argmax())
        place = np.s_[:, :, largest : largest + 1]
        return Image(phantom.array[place].astype(np.float32), phantom.affine), organ[place].astype(np.uint8)

    templates = [Template(f"t{seed}", *liver(seed), {"liver": 1}) for seed in range(4)]
    image, label = liver(0)
    wrong = Template("wrong", image, np.roll(label, 32, axis=0), {"liver": 1})
    right, misled = [], []
    for seed in range(10, 14):
        image, truth = liver(seed)
        for given, dices in ((templates, right), ([wrong, *templates[1:]], misled)):
            dices.append(dice(segmenter.segment(image, given, {"liver": 1}).mask > 0, truth > 0))
    assert np.mean(right) > 0.85
    assert np.mean(misled) > np.mean(right) - 0.15
