"""PromptSeg with random weights: what holds by construction, whatever it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.imaging.prompts import Prompt, rasterise
from lib.networks.promptseg import PromptSeg, PromptSegConfig

SIZE = 64


@pytest.fixture(scope="module")
def network() -> PromptSeg:
    torch.manual_seed(0)
    return PromptSeg(PromptSegConfig()).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    smooth = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(smooth, size=(SIZE, SIZE), mode="bicubic")


def disc(i: int, j: int, radius: int = 10) -> np.ndarray:
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return (rows - i) ** 2 + (columns - j) ** 2 < radius**2


def maps(*prompts: Prompt) -> torch.Tensor:
    """(1, K, 2, 5, S, S)"""
    return torch.from_numpy(np.stack([rasterise(prompt, (SIZE, SIZE), SIZE) for prompt in prompts]))[None]


PLACES = [(20, 20), (30, 40), (44, 24), (24, 44)]
MASKS = maps(*(Prompt(mask=disc(*place)) for place in PLACES))


def prompted(network: PromptSeg, images: torch.Tensor, order: list[int]) -> tuple:
    """Features (1, K, C, h, h) and maps of the prompts in an order."""
    features = network.encode(images[1:5])
    return tuple(level[order][None] for level in features), MASKS[:, order]


@torch.inference_mode()
def answer(network: PromptSeg, images: torch.Tensor, order: list[int]) -> torch.Tensor:
    return network.decode(network.encode(images[:1]), *prompted(network, images, order))


def test_the_order_of_prompts_changes_nothing(network, images):
    torch.testing.assert_close(
        answer(network, images, [0, 1, 2, 3]), answer(network, images, [2, 0, 3, 1]), atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_prompts_gives_one_mask_at_the_images_size(network, images, count):
    logits = answer(network, images, list(range(count)))
    assert logits.shape == (1, 1, SIZE, SIZE)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_every_prompt_is_read(network, images):
    both = answer(network, images, [0, 1])
    assert not torch.allclose(both, answer(network, images, [0, 2]), atol=1e-4)
    assert not torch.allclose(both, answer(network, images, [3, 1]), atol=1e-4)


@torch.inference_mode()
def test_what_was_remembered_once_serves_every_query(network, images):
    memory = network.remember(*prompted(network, images, [0, 1, 2]))
    queries = network.encode(images[[0, 5]])
    together = network.read(queries, memory)
    for number in range(2):
        alone = network.read(tuple(level[number : number + 1] for level in queries), memory)
        torch.testing.assert_close(together[number : number + 1], alone, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(together[:1], answer(network, images, [0, 1, 2]), atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_weights_of_prompts_sum_to_one_and_follow_their_order(network, images):
    weights = network.remember(*prompted(network, images, [0, 1, 2, 3])).weights
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1))
    turned = network.remember(*prompted(network, images, [3, 2, 1, 0])).weights
    torch.testing.assert_close(weights, turned.flip(1), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_same_prompt_many_times_weighs_the_same_each_time(network, images):
    weights = network.remember(*prompted(network, images, [1, 1, 1])).weights
    torch.testing.assert_close(weights, torch.full((1, 3), 1 / 3), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    "prompt", [Prompt(foreground=[(20, 20)]), Prompt(box=(10, 30, 12, 34)), Prompt(doodle=disc(20, 20, 4))]
)
def test_prompts_may_be_clicks_boxes_and_strokes(network, images, prompt):
    features = tuple(level[None] for level in network.encode(images[1:2]))
    query = network.encode(images[:1])
    sparse = network.decode(query, features, maps(prompt))
    assert not torch.allclose(sparse, network.decode(query, features, maps(Prompt(mask=disc(44, 44)))), atol=1e-4)


@torch.inference_mode()
def test_a_click_on_the_query_changes_the_answer(network, images):
    memory = network.remember(*prompted(network, images, [0, 1]))
    query = network.encode(images[:1])
    clicked = network.read(query, memory, maps(Prompt(foreground=[(40, 40)]))[0])
    assert not torch.allclose(clicked, network.read(query, memory), atol=1e-4)


@pytest.mark.parametrize("count", [0, 17])
def test_no_prompt_and_too_many_are_refused_with_how_many_it_reads(network, images, count):
    features = tuple(level[:1].expand(count, -1, -1, -1)[None] for level in network.encode(images[:1]))
    with pytest.raises(ValueError, match=f"reads 1 to 16 prompts in one pass, got {count}"):
        network.remember(features, MASKS[:, :1].expand(-1, count, -1, -1, -1, -1))


def test_the_bottleneck_is_stochastic_in_training_alone_and_its_divergence_has_a_gradient(images):
    torch.manual_seed(0)
    network = PromptSeg(PromptSegConfig()).train()
    given = prompted(network, images, [0, 1])
    first, second = network.remember(*given).task, network.remember(*given).task
    assert not torch.equal(first.tokens, second.tokens)
    assert (first.divergence > 0).all()
    first.divergence.sum().backward()
    assert network.bottleneck.moments.weight.grad.abs().sum() > 0
    network.eval()
    torch.testing.assert_close(network.remember(*given).task.tokens, network.remember(*given).task.tokens)


def test_pressing_the_divergence_empties_the_bottleneck(images):
    torch.manual_seed(0)
    network = PromptSeg(PromptSegConfig()).train()
    given = tuple(level.detach() for level in prompted(network, images, [0, 1])[0]), MASKS[:, :2]
    optimizer = torch.optim.Adam(network.bottleneck.parameters(), lr=0.02)
    before = float(network.remember(*given).task.divergence.detach())
    for _ in range(60):
        optimizer.zero_grad()
        network.remember(*given).task.divergence.sum().backward()
        optimizer.step()
    assert float(network.remember(*given).task.divergence.detach()) < 0.1 * before


@torch.inference_mode()
def test_without_the_bottleneck_all_prompts_weigh_the_same(images):
    torch.manual_seed(0)
    network = PromptSeg(replace(PromptSegConfig(), bottleneck=False)).eval()
    memory = network.remember(*prompted(network, images, [0, 1, 2]))
    torch.testing.assert_close(memory.weights, torch.full((1, 3), 1 / 3))
    assert float(memory.task.divergence) == 0


def test_a_configuration_survives_json():
    config = PromptSegConfig(depth=2, task_tokens=4)
    assert PromptSegConfig.from_dict(config.as_dict()) == config
    with pytest.raises(ValueError, match="unknown"):
        PromptSegConfig.from_dict({**config.as_dict(), "beta": 1})
