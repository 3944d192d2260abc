"""Network configurations: round trip and refusals."""

from __future__ import annotations

import pytest

from lib.networks import NetworkConfig

CONFIGS = [NetworkConfig.small(), NetworkConfig.small_v2(), NetworkConfig.base(), NetworkConfig(prompt_parser=False)]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_survives_the_way_through_json(config):
    assert NetworkConfig.from_dict(config.as_dict()) == config


def test_weights_from_before_there_were_two_designs_keep_their_configuration_and_so_their_hash():
    assert "design" not in NetworkConfig.small().as_dict()


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(ValueError, match="depth"):
        NetworkConfig.from_dict({"depth": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 100},
        {"former_levels": (4, 2)},
        {"channels": (16, 32)},
        {"head_channels": 48},
        {"design": "cubist"},
        {"design": "patch"},  # with the channels of the other design
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        NetworkConfig(**wrong)
