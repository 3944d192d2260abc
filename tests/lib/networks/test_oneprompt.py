"""The whole network with random weights: what a prompt does, what a batch may not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.imaging.prompts import Prompt, rasterise
from lib.networks import NetworkConfig, OnePrompt

SIZE = 64


DESIGNS = {"pyramid": NetworkConfig.small(), "patch": NetworkConfig.small_v2()}


@pytest.fixture(scope="module", params=DESIGNS)
def network(request) -> OnePrompt:
    torch.manual_seed(0)
    return OnePrompt(DESIGNS[request.param]).eval()


@pytest.fixture(scope="module")
def patch_network() -> OnePrompt:
    torch.manual_seed(0)
    return OnePrompt(NetworkConfig.small_v2()).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    smooth = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(smooth, size=(SIZE, SIZE), mode="bicubic")


def disc(i: int, j: int, radius: int = 10) -> np.ndarray:
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return (rows - i) ** 2 + (columns - j) ** 2 < radius**2


def maps(prompt: Prompt) -> torch.Tensor:
    return torch.from_numpy(rasterise(prompt, (SIZE, SIZE), SIZE))[None]


PROMPTS = {
    "click": Prompt(foreground=[(20, 20)]),
    "background click": Prompt(foreground=[(20, 20)], background=[(40, 40)]),
    "box": Prompt(box=(10, 30, 12, 34)),
    "doodle": Prompt(doodle=disc(20, 20, 4), background_doodle=disc(50, 50, 4)),
    "mask": Prompt(mask=disc(20, 20)),
    "previous": Prompt(foreground=[(20, 20)], previous=disc(20, 20)),
}


@torch.inference_mode()
def interactive(network: OnePrompt, image: torch.Tensor, prompt: Prompt) -> torch.Tensor:
    features, said = network.encode(image), maps(prompt)
    return network.decode(features, features, said, said)[0, 0]


def test_moving_a_click_changes_the_answer_most_where_the_clicks_are(network, images):
    first = interactive(network, images[:1], Prompt(foreground=[(16, 16)]))
    second = interactive(network, images[:1], Prompt(foreground=[(48, 40)]))
    change = (first - second).abs()
    near = torch.from_numpy(disc(16, 16, 5) | disc(48, 40, 5))
    assert change.mean() > 1e-3 * first.std()
    assert change[near].mean() > 2 * change[~near].mean()


def test_moving_a_click_on_the_template_changes_the_answer_on_another_image(network, images):
    with torch.inference_mode():
        answers = [network(images[:1], images[1:2], maps(Prompt(foreground=[p]))) for p in ((16, 16), (48, 40))]
    assert (answers[0] - answers[1]).abs().mean() > 1e-3 * answers[0].std()


@pytest.mark.parametrize("kind", PROMPTS)
def test_every_kind_of_prompt_changes_the_answer(network, images, kind):
    nothing = interactive(network, images[:1], Prompt())
    assert (interactive(network, images[:1], PROMPTS[kind]) - nothing).abs().mean() > 1e-3 * nothing.std()


def test_an_empty_mask_is_not_the_same_as_no_mask(network, images):
    empty = interactive(network, images[:1], Prompt(mask=np.zeros((SIZE, SIZE), bool)))
    assert not torch.allclose(empty, interactive(network, images[:1], Prompt()), atol=1e-4)


def test_a_query_is_answered_the_same_alone_and_in_a_batch(network, images):
    said = maps(PROMPTS["mask"])
    with torch.inference_mode():
        template, queries = network.encode(images[:1]), network.encode(images)
        together = network.decode(queries, template, said)
        alone = [network.decode(network.encode(image[None]), template, said) for image in images]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_one_template_serves_a_batch_like_a_repeated_one(network, images):
    said = maps(PROMPTS["box"])
    with torch.inference_mode():
        queries, template = network.encode(images[1:]), network.encode(images[:1])
        repeated = tuple(level.repeat(3, 1, 1, 1) for level in template)
        shared = network.decode(queries, template, said)
        copied = network.decode(queries, repeated, said.repeat(3, 1, 1, 1, 1))
    torch.testing.assert_close(shared, copied, atol=1e-4, rtol=1e-4)


def test_bfloat16_answers_nearly_as_float32_does(network, images):
    said = maps(PROMPTS["mask"])
    with torch.inference_mode():
        exact = network(images[1:2], images[:1], said)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(images[1:2], images[:1], said)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("design", DESIGNS)
def test_gradients_reach_every_parameter_over_a_batch_of_all_prompts(images, design):
    torch.manual_seed(0)
    network = OnePrompt(DESIGNS[design])
    said = torch.cat([maps(prompt) for prompt in PROMPTS.values()])
    queries, templates = images[[0, 1, 2, 3, 0, 1]], images[[1, 2, 3, 0, 2, 3]]
    network(queries, templates, said, said.flip(0)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("switch", ["prompt_parser", "gaussian_masking", "dense_correspondence"])
def test_a_network_without_one_of_its_parts_still_answers(images, switch, design):
    network = OnePrompt(replace(DESIGNS[design], **{switch: False})).eval()
    with torch.inference_mode():
        assert network(images, images[:1], maps(PROMPTS["mask"])).shape == (4, 1, SIZE, SIZE)


def test_the_small_network_has_two_to_six_million_parameters_and_base_has_more(network):
    def count(net: OnePrompt) -> float:
        return sum(p.numel() for p in net.parameters()) / 1e6

    assert 2 < count(network) < 6 < count(OnePrompt(NetworkConfig.base()))


@pytest.mark.parametrize("size", [48, 80, 96, 160, 192])
def test_every_multiple_of_the_stride_runs_as_an_image_size(network, size):
    image = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(2))
    said = torch.from_numpy(rasterise(PROMPTS["mask"], (SIZE, SIZE), size))[None]
    with torch.inference_mode():
        assert network(image, image, said, said).shape == (1, 1, size, size)


def test_a_template_given_twice_says_what_it_says_once(patch_network, images):
    said = maps(PROMPTS["mask"])
    with torch.inference_mode():
        queries, template = patch_network.encode(images[1:]), patch_network.encode(images[:1])
        once = patch_network.decode(queries, template, said)
        twice = patch_network.decode(
            queries,
            tuple(level[:, None].repeat(1, 2, 1, 1, 1) for level in template),
            said[:, None].repeat(1, 2, 1, 1, 1, 1),
        )
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)


def test_the_order_of_several_templates_does_not_matter_and_each_of_them_does(patch_network, images):
    said = torch.stack([maps(PROMPTS[name])[0] for name in ("mask", "box", "doodle")])[None]
    with torch.inference_mode():
        query = patch_network.encode(images[:1])
        templates = tuple(level[None] for level in patch_network.encode(images[1:]))

        def answer(order: list[int]) -> torch.Tensor:
            return patch_network.decode(query, tuple(level[:, order] for level in templates), said[:, order])

        full = answer([0, 1, 2])
        torch.testing.assert_close(full, answer([2, 0, 1]), atol=1e-4, rtol=1e-4)
        for left in ([1, 2], [0, 2], [0, 1]):
            assert (answer(left) - full).abs().mean() > 1e-3 * full.std()


def test_one_image_answers_for_several_structures_in_one_pass(network, images):
    said = torch.cat([maps(PROMPTS[name]) for name in ("mask", "box", "click")])
    with torch.inference_mode():
        query, template = network.encode(images[:1]), network.encode(images[1:2])
        together = network.decode(query, template, said)
        alone = [network.decode(query, template, one[None]) for one in said]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_network_that_reads_one_template_says_so_of_two(images):
    network = OnePrompt(NetworkConfig.small())
    with torch.inference_mode():
        query, templates = network.encode(images[:1]), network.encode(images[:2])
        with pytest.raises(ValueError, match="at most 1 templates"):
            network.decode(
                query, tuple(level[None] for level in templates), maps(PROMPTS["mask"]).repeat(1, 2, 1, 1, 1, 1)
            )


def test_maps_of_the_patch_design_are_channels_last_from_the_first_to_the_last(patch_network, images):
    with torch.inference_mode():
        features = patch_network.encode(images)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in features)
    assert not any(level.is_contiguous() for level in features)


def test_base_runs_with_the_same_classes(images):
    network = OnePrompt(NetworkConfig.base()).eval()
    with torch.inference_mode():
        assert network(images[:1], images[1:2], maps(PROMPTS["click"])).shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 64, 32), (1, 1, 60, 60), (64, 64)])
def test_images_of_another_form_are_refused_with_the_allowed_one(network, shape):
    with pytest.raises(ValueError, match="must be"):
        network.encode(torch.zeros(shape))
