"""What a PromptSeg takes over from One-Prompt."""

from __future__ import annotations

import pytest
import torch

from lib.networks import NetworkConfig, OnePrompt
from lib.networks.promptseg import PromptSeg, PromptSegConfig, begin_from


def test_it_encodes_as_the_one_prompt_that_it_began_from():
    torch.manual_seed(0)
    start = OnePrompt(NetworkConfig.small_v2()).eval()
    network = begin_from(start).eval()
    assert network.config.encoder == start.config
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        for own, former in zip(network.encode(image), start.encode(image), strict=True):
            torch.testing.assert_close(own, former)
    for name in ("prompt_encoder", "mask_decoder"):
        learnt = getattr(start, name).state_dict()
        assert all(torch.equal(own, learnt[key]) for key, own in getattr(network, name).state_dict().items())
    assert torch.equal(network.affinities[1].project.weight, start.former[-1].affinity.project.weight)


def test_it_reads_the_features_of_the_pyramid_design_so_that_one_encoding_serves_both():
    torch.manual_seed(0)
    start = OnePrompt(NetworkConfig.small()).eval()
    network = begin_from(start).eval()
    images = torch.randn(3, 1, 32, 32)
    maps = torch.zeros(1, 2, 2, 5, 32, 32)
    maps[:, :, 0, 3, 8:20, 8:20] = 1
    with torch.inference_mode():
        features = start.encode(images)
        for own, former in zip(network.encode(images), features, strict=True):
            torch.testing.assert_close(own, former)
        query, prompts = (tuple(level[which] for level in features) for which in (slice(1), slice(1, 3)))
        answer = network.decode(query, tuple(level[None] for level in prompts), maps)
    assert answer.shape == (1, 1, 32, 32)
    assert torch.equal(network.affinities[0].project.weight, start.former[1].affinity.project.weight[..., 0, 0])
    again = PromptSegConfig.from_dict(network.config.as_dict())
    assert PromptSeg(again).load_state_dict(network.state_dict())


def test_a_one_prompt_without_dense_correspondence_is_refused_with_what_it_needs():
    config = NetworkConfig.from_dict(NetworkConfig.small_v2().as_dict() | {"dense_correspondence": False})
    with pytest.raises(ValueError, match="with dense correspondence"):
        begin_from(OnePrompt(config))
