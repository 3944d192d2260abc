"""A training step learns, in every mode, and the defaults fit together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.prompts import Prompt
from lib.learning.episodes import Episode, EpisodeSource
from lib.learning.optimizers import make_optimizer
from lib.learning.training import (
    TrainingConfig,
    learning_rate_at,
    moving_average,
    refined,
    segmentation_loss,
    training_step,
)
from lib.networks import NetworkConfig, OnePrompt


def tiny() -> OnePrompt:
    torch.manual_seed(0)
    return OnePrompt(
        NetworkConfig(name="tiny", image_size=64, channels=(8, 16, 32, 32, 32), blocks=(1, 1, 1, 1), prompt_channels=8)
    )


def episodes(count: int = 3) -> list[Episode]:
    source, rng = EpisodeSource([], size=64, queries=2), np.random.default_rng(0)
    return [source.draw(rng, 0) for _ in range(count)]


def test_the_loss_falls_when_the_same_episodes_are_seen_again():
    network, config = tiny(), TrainingConfig(learning_rate=3e-3, interactive=0, corrected=0, bf16=False)
    optimizer, batch, losses = (
        make_optimizer(network, config.optimizer, config.learning_rate, config.weight_decay),
        episodes(),
        [],
    )
    for _ in range(25):
        result = training_step(network, batch, config, np.random.default_rng(0))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def test_the_other_queries_of_an_episode_serve_as_further_templates_where_the_network_reads_several():
    torch.manual_seed(0)
    config = NetworkConfig(
        image_size=64, design="patch", channels=(8, 32, 32, 32), blocks=(1, 1, 1, 1), decoder_channels=(16,)
    )
    network, counts = OnePrompt(config), []
    decode = network.decode

    def counted(query, template, maps, own):
        counts.append(maps.shape[1] if maps.ndim == 6 else 1)
        return decode(query, template, maps, own)

    network.decode = counted
    for seed in range(2):
        settings = TrainingConfig(several=1.0, self_prompt=0)
        training_step(network, episodes(2), settings, np.random.default_rng(seed)).loss.backward()
    assert set(counts) == {2}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("bf16", [False, True])
def test_every_mode_is_trained_and_reaches_every_part(bf16):
    network, config = tiny(), TrainingConfig(interactive=0.4, corrected=0.3, bf16=bf16)
    modes = set()
    for seed in range(3):
        result = training_step(network, episodes(), config, np.random.default_rng(seed))
        result.loss.backward()
        modes |= set(result.modes)
        assert len(result.dice) == len(result.modes) == len(result.sources) == 6
    assert modes == {"interactive", "corrected", "one-shot"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_query_without_the_structure_is_never_asked_for_interactively():
    batch = episodes(2)
    for episode in batch:
        episode.masks[1:] = False
    result = training_step(tiny(), batch, TrainingConfig(interactive=0.9, corrected=0.1), np.random.default_rng(0))
    assert "interactive" not in result.modes


def test_the_loss_is_smallest_for_the_truth_also_where_it_is_empty():
    for target in (torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)):
        right = segmentation_loss((target * 2 - 1) * 20, target)
        wrong = segmentation_loss((1 - target * 2) * 20, target)
        assert right < 0.01 < wrong


def test_a_refined_prompt_keeps_its_clicks_and_carries_the_last_answer():
    truth = np.zeros((16, 16), bool)
    truth[4:12, 4:12] = True
    prompt = refined(Prompt(foreground=[(5, 5)]), np.zeros((16, 16), np.float32), truth)
    assert len(prompt.foreground) == 2
    assert prompt.previous is not None
    assert refined(prompt, truth.astype(np.float32), truth).foreground == prompt.foreground


def test_the_rate_rises_stays_and_falls_to_zero():
    config = TrainingConfig(learning_rate=1.0, warmup=10)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[79] == 1
    assert rates[99] == pytest.approx(0.05)
    assert learning_rate_at(100, 100, config) == 0


def test_the_average_follows_the_weights_and_owns_its_memory():
    network = tiny()
    average = moving_average(network, 0.9)
    before = [p.clone() for p in average.module.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(a, b) for a, b in zip(before, average.module.parameters(), strict=True))
    for _ in range(200):
        average.update_parameters(network)
    pairs = zip(average.module.parameters(), network.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in pairs)


def test_the_average_remembers_less_at_the_start_and_goes_on_where_it_was():
    network, values = tiny(), []
    average = moving_average(network, 0.999)
    weight = next(average.module.parameters()).detach()
    weight.zero_()
    for step in range(1, 4):
        with torch.no_grad():
            next(network.parameters()).fill_(step)
        average.update_parameters(network)
        values.append(float(weight.flatten()[0]))
    # decays 2/11, 3/12, 4/13
    expected = [1 * 9 / 11, 0.25 * 9 / 11 + 0.75 * 2, 4 / 13 * (0.25 * 9 / 11 + 0.75 * 2) + 9 / 13 * 3]
    assert values == pytest.approx(expected)
    other = moving_average(network, 0.999)
    other.module.load_state_dict(average.module.state_dict())
    other.n_averaged.fill_(1 + 3)
    for own in (average, other):
        own.update_parameters(network)
    pairs = zip(average.module.parameters(), other.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
