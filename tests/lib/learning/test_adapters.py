import pytest
import torch

from lib.learning.adapters import MODES, adapt, merged
from lib.networks import OnePrompt
from tests.samples import TINY


def answer(network):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 1, 32, 32, generator=generator)
    prompts = torch.rand(1, 2, 5, 32, 32, generator=generator)
    with torch.inference_mode():
        return network.eval()(images, images.flip(2), prompts)


def fresh():
    torch.manual_seed(0)
    return OnePrompt(TINY)


@pytest.mark.parametrize("mode", MODES)
def test_an_adapted_network_answers_as_before_until_it_learns(mode):
    torch.testing.assert_close(answer(adapt(fresh(), mode)), answer(fresh()))


@pytest.mark.parametrize("mode", MODES)
def test_a_merged_network_is_plain_and_answers_as_the_adapted_one(mode):
    network = adapt(fresh(), mode, rank=2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    plain = merged(network)
    assert plain.state_dict().keys() == fresh().state_dict().keys()
    torch.testing.assert_close(answer(plain), answer(network))
    assert not torch.allclose(answer(plain), answer(fresh()))


def test_light_modes_learn_a_small_part_of_the_weights():
    def learning(mode):
        network = adapt(OnePrompt(TINY), mode, rank=2)
        return sum(p.numel() for p in network.parameters() if p.requires_grad)

    assert learning("norms") < learning("lora") < learning("full")
    assert learning("norms") < 0.1 * learning("full")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="full, norms, lora, got 'half'"):
        adapt(fresh(), "half")
