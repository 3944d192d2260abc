"""A UniSeg with further tasks, and one that begins with another's encoder and decoder."""

import dataclasses

import pytest
import torch

from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.networks.uniseg.growth import extended, restarted

TINY = UniSegConfig(tasks=2, outputs=3, patch=(8, 16, 16), base=2, most_features=8, strides=((1, 2, 2), (2, 2, 2)))


@pytest.fixture
def network() -> UniSeg:
    torch.manual_seed(3)
    return UniSeg(TINY).eval()


def test_a_further_task_leaves_the_answers_to_the_learnt_ones_as_they_were(network: UniSeg) -> None:
    grown = extended(network, tasks=4, outputs=5).eval()
    image = torch.randn(1, 2, 8, 16, 16)
    with torch.inference_mode():
        for task in (0, 1):
            for before, after in zip(network(image, task), grown(image, task), strict=True):
                torch.testing.assert_close(after[:, :3], before, atol=1e-5, rtol=1e-5)
        assert grown(image, 3)[0].shape == (1, 5, 8, 16, 16)
        assert not torch.allclose(grown(image, 3)[0], grown(image, 2)[0])


def test_the_prompt_of_a_further_task_is_learnt(network: UniSeg) -> None:
    grown = extended(network, tasks=3, outputs=3).train()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves FUSE's zeros away from zero
        optimizer.zero_grad()
        grown(torch.randn(1, 1, 8, 16, 16), 2)[0].square().mean().backward()
        optimizer.step()
    gradient = grown.universal.prompt.grad
    assert gradient is not None
    assert gradient[:, 2].abs().sum() > 0


def test_only_more_tasks_and_outputs_can_be_had(network: UniSeg) -> None:
    with pytest.raises(ValueError, match="from 2 tasks and 3 outputs to more, got 1 and 3"):
        extended(network, tasks=1, outputs=3)
    plain = UniSeg(dataclasses.replace(TINY, conditioning="heads"))
    with pytest.raises(ValueError, match="'heads' conditioning"):
        extended(plain, tasks=3, outputs=3)


def test_a_new_network_begins_with_encoder_and_decoder_and_drops_the_prompt(network: UniSeg) -> None:
    fresh = restarted(network, dataclasses.replace(TINY, tasks=1, outputs=2, patch=(8, 32, 16)))
    own, theirs = fresh.state_dict(), network.state_dict()
    kept = {name for name in own if own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name])}
    assert {name.split(".")[0] for name in own.keys() - kept} <= {"universal", "heads", "up"}
    assert torch.equal(own["up.0.weight"][:-1], theirs["up.0.weight"][:-1])
    assert not torch.equal(own["up.0.weight"][-1], theirs["up.0.weight"][-1])
    assert own["universal.prompt"].shape == (1, 1, 4, 8, 4)


def test_a_plain_network_begins_with_them_too(network: UniSeg) -> None:
    plain = restarted(network, dataclasses.replace(TINY, conditioning="heads"))
    assert torch.equal(plain.state_dict()["up.0.weight"], network.state_dict()["up.0.weight"][:-1])


def test_a_network_of_other_sizes_is_no_start(network: UniSeg) -> None:
    with pytest.raises(ValueError, match="base, most_features differ"):
        restarted(network, dataclasses.replace(TINY, base=4, most_features=16))
