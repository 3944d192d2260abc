"""A training step of PromptSeg: any number of prompts, wrong ones among them, and the bottleneck in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.learning.episodes import Episode
from lib.learning.optimizers import make_optimizer
from lib.learning.several_prompts import SeveralPrompts, several_prompts_step
from lib.learning.training import StepResult, TrainingConfig
from lib.networks.config import NetworkConfig
from lib.networks.promptseg import PromptSeg, PromptSegConfig

SIZE = 32
EXACT = TrainingConfig(bf16=False)


def tiny() -> PromptSeg:
    torch.manual_seed(0)
    encoder = NetworkConfig(
        image_size=SIZE, design="patch", channels=(8, 32, 32, 32), blocks=(1, 1, 1, 1), decoder_channels=(16,)
    )
    return PromptSeg(PromptSegConfig(encoder=encoder, depth=1, task_tokens=2, task_channels=8, prompt_tokens=16))


def episodes(members: int = 6) -> list[Episode]:
    """Bright discs on noise, and dark ones."""
    rng, made = np.random.default_rng(0), []
    rows, columns = np.ogrid[:SIZE, :SIZE]
    for grey in (2.0, -2.0):
        places = rng.integers(10, 22, (members, 2))
        masks = np.stack([(rows - i) ** 2 + (columns - j) ** 2 < 49 for i, j in places])
        images = 0.3 * rng.standard_normal(masks.shape).astype(np.float32) + np.float32(grey) * masks
        made.append(Episode(images, masks, "discs"))
    return made


def step(network: PromptSeg, seed: int, several: SeveralPrompts = SeveralPrompts(), members: int = 6) -> StepResult:
    torch.manual_seed(seed)
    return several_prompts_step(network, episodes(members), EXACT, several, np.random.default_rng(seed))


def test_every_image_that_is_no_prompt_is_a_query():
    counts = {len(step(tiny(), seed, SeveralPrompts(most=3, wrong=0)).dice) for seed in range(12)}
    assert counts == {2 * (6 - prompts) for prompts in (1, 2, 3)}


def test_one_query_is_left_however_few_images_there_are():
    assert {len(step(tiny(), seed, members=2).dice) for seed in range(3)} == {2}


def test_the_loss_falls_when_the_same_episodes_are_seen_again():
    network, losses = tiny(), []
    optimizer = make_optimizer(network, "muon", 4e-3, 0)
    for seed in range(24):
        result = step(network, seed % 2, SeveralPrompts(wrong=0))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:2])


def test_every_part_has_a_gradient_and_a_frozen_encoder_none():
    network = tiny()
    for seed in range(3):
        step(network, seed).loss.backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert silent == set()
    network.zero_grad()
    network.image_encoder.requires_grad_(False)
    step(network, 0).loss.backward()
    assert all(p.grad is None for p in network.image_encoder.parameters())
    assert network.bottleneck.moments.weight.grad is not None


def test_beta_is_the_price_of_what_passes_the_bottleneck():
    free, dear = (step(tiny(), 0, SeveralPrompts(wrong=0, beta=beta)).loss for beta in (0.0, 1.0))
    divergence = float((dear - free).detach())
    assert divergence > 0
    half = step(tiny(), 0, SeveralPrompts(wrong=0, beta=0.5)).loss
    assert float((half - free).detach()) == pytest.approx(divergence / 2, rel=1e-4)


def test_a_large_beta_empties_the_bottleneck_and_beta_0_does_not():
    def passed(beta: float) -> float:
        """Divergence of the task tokens, in nats, after some steps."""
        network = tiny()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for seed in range(12):
            optimizer.zero_grad()
            step(network, seed, SeveralPrompts(wrong=0, beta=beta)).loss.backward()
            optimizer.step()
        costs = [step(network, 0, SeveralPrompts(wrong=0, beta=beta)).loss for beta in (0.0, 1.0)]
        return float((costs[1] - costs[0]).detach())

    assert passed(10.0) < 0.3 * passed(0.0)


def test_a_wrong_prompt_comes_only_among_three_or_more():
    seen = [step(tiny(), seed, SeveralPrompts(most=3, wrong=1.0)) for seed in range(12)]
    modes = {6 - len(result.dice) // 2: set(result.modes) for result in seen}
    assert modes == {1: {"1 prompt"}, 2: {"2 to 4 prompts"}, 3: {"one wrong"}}
