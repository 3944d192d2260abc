"""What a PromptSeg takes over from One-Prompt."""

from __future__ import annotations

import pytest
import torch

from lib.networks import NetworkConfig, OnePrompt
from lib.networks.promptseg import begin_from


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


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig.small(),
        NetworkConfig.from_dict(NetworkConfig.small_v2().as_dict() | {"dense_correspondence": False}),
    ],
)
def test_a_one_prompt_with_other_parts_is_refused_with_what_it_needs(config):
    with pytest.raises(ValueError, match="patch design with dense correspondence"):
        begin_from(OnePrompt(config))
