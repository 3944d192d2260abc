"""Weights files: the whole way round, and every refusal with its reason."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib.networks import NetworkConfig, OnePrompt, checkpoints
from lib.networks.architectures import LIST_UNET, ONE_PROMPT, UNISEG
from lib.networks.checkpoints import (
    CheckpointError,
    average_networks,
    load_network,
    read_architecture,
    read_provenance,
    save_network,
    weights_hash,
)
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.networks.uniseg import UniSeg, UniSegConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def network() -> OnePrompt:
    torch.manual_seed(0)
    return OnePrompt(NetworkConfig(name="tiny", channels=(8, 16, 32, 32, 32), blocks=(1, 1, 1, 1)))


def test_a_network_comes_back_with_its_configuration_weights_and_history(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {"datasets": ["a"], "hours": 2})
    loaded = load_network(path)
    assert loaded.config == network.config
    assert weights_hash(loaded) == weights_hash(network)
    assert not loaded.training
    assert read_provenance(path) == {"datasets": ["a"], "hours": 2}


def test_the_hash_changes_with_any_weight(network):
    before = weights_hash(network)
    with torch.no_grad():
        next(network.parameters())[0] += 1e-3
    assert weights_hash(network) != before


def test_weights_of_different_configurations_have_no_mean(network, tmp_path):
    other = OnePrompt(NetworkConfig(name="other", channels=(8, 16, 32, 32, 32), blocks=(1, 1, 1, 1)))
    paths = [tmp_path / "one.safetensors", tmp_path / "other.safetensors"]
    for path, saved in zip(paths, (network, other), strict=True):
        save_network(path, saved, {})
    with pytest.raises(CheckpointError, match="share a configuration"):
        average_networks(paths, OnePrompt)


def test_a_network_outlives_the_file_that_it_was_read_from(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {})
    program = (
        "import sys; from lib.networks.checkpoints import load_network, weights_hash; path = sys.argv[1]; "
        "network = load_network(path); open(path, 'wb').close(); print(weights_hash(network))"
    )
    command = [sys.executable, "-c", program, str(path)]  # a process of its own: a failure ends it with SIGBUS
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, weights_hash(network))


def test_what_is_not_a_fitting_weights_file_is_refused_with_its_reason(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_network(path)
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="whole safetensors"):
        load_network(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="format"):
        load_network(path)


def test_weights_of_another_configuration_are_refused(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    metadata = {"format": "oneprompt-1", "config": json.dumps(NetworkConfig.small().as_dict())}
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path, metadata)
    with pytest.raises(CheckpointError, match="small"):
        load_network(path)
    metadata["config"] = json.dumps({"depth": 3})
    save_file(network.state_dict(), path, metadata)
    with pytest.raises(CheckpointError, match="another version"):
        load_network(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "[" * 10**5},
        {"config": "[]"},
        {"config": "3"},
        {"config": '{"blocks": [1000000000, 1, 1, 1]}'},
        {"config": '{"blocks": ["x"]}'},
        {"config": '{"channels": [0, 0, 0, 0, 0], "blocks": [1, 1, 1, 1]}'},
        {"config": "{}", "architecture": "promptseg"},
        {"config": '{"encoder": 3}', "architecture": "promptseg"},
        {"config": '{"tasks": 1e400}', "architecture": "uniseg"},
        {"config": "{", "architecture": "list-unet"},
        {"provenance": "[" * 10**5},
        {"provenance": "3"},
        {"provenance": "{"},
    ],
)
def test_whatever_a_file_says_of_itself_is_read_or_refused_as_no_weights(network, tmp_path, changes):
    path = tmp_path / "weights.safetensors"
    metadata = {"format": "oneprompt-1", "config": json.dumps(network.config.as_dict()), "provenance": "{}"}
    save_file(network.state_dict(), path, metadata | changes)
    with pytest.raises(CheckpointError):
        load_network(path, "cpu", torch.nn.Module)


def test_what_no_reader_of_json_takes_is_mended_in_a_provenance(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    odd = '{"a": NaN, "b": [1e400, "\\ud800"], "c": 123456789012345678901234567890, "d": "whole"}'
    metadata = {"format": "oneprompt-1", "config": json.dumps(network.config.as_dict()), "provenance": odd}
    save_file(network.state_dict(), path, metadata)
    assert read_provenance(path) == {"a": None, "b": [None, "?"], "c": None, "d": "whole"}


def test_a_file_of_an_unknown_architecture_is_refused_with_those_that_are_known(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, {"format": "oneprompt-1", "architecture": "swin", "config": "{}"})
    with pytest.raises(CheckpointError, match="oneprompt, list-unet, promptseg, uniseg, got 'swin'"):
        load_network(path)


def test_a_file_without_an_architecture_holds_one_prompt(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, {"format": "oneprompt-1", "config": json.dumps(network.config.as_dict())})
    assert weights_hash(load_network(path)) == weights_hash(network)
    assert read_architecture(path) is ONE_PROMPT


def test_networks_of_every_architecture_come_back(tmp_path):
    config = UniSegConfig(tasks=2, outputs=3, patch=(8, 8, 8), base=2, most_features=4, strides=((2, 2, 2), (2, 2, 2)))
    unet = ListUNetConfig(("liver", "spleen"), filters=(4, 8, 8))
    for known, network in ((UNISEG, UniSeg(config)), (LIST_UNET, ListUNetNetwork(unet))):
        path = tmp_path / f"{known.name}.safetensors"
        save_network(path, network, {"hours": 2})
        assert read_architecture(path) is known
        loaded = load_network(path, "cpu", known.network)
        assert (loaded.config, weights_hash(loaded)) == (network.config, weights_hash(network))
        with pytest.raises(CheckpointError, match=f"must hold.*'oneprompt', got '{known.name}'"):
            load_network(path)


def test_a_truncated_file_is_refused(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="whole safetensors"):
        load_network(path)


def test_a_full_disk_leaves_the_old_file_as_it_was(network, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {"version": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_network(path, network, {"version": 2})
    monkeypatch.undo()
    assert read_provenance(path) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint_leaves_the_last_good_one(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {"version": 1})
    half, before = path.stat().st_size // 2, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (half, before[1]))  # the system itself refuses to write further
    try:
        with pytest.raises(OSError, match="File too large"):
            save_network(path, network, {"version": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert weights_hash(load_network(path)) == weights_hash(network)
    assert read_provenance(path) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_shipped_weights_have_their_place_beside_the_app():
    assert checkpoints.SHIPPED_WEIGHTS.parts[-4:-1] == ("apps", "oneprompt", "weights")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(network, tmp_path, value):
    name, weights = next((n, w) for n, w in network.named_parameters() if w.ndim > 1)
    weights.data.view(-1)[3] = value
    save_network(tmp_path / "weights.safetensors", network, {})
    with pytest.raises(CheckpointError, match=f"no numbers, in {name}"):
        load_network(tmp_path / "weights.safetensors")


def test_weights_stored_in_sixteen_bits_take_half_the_room_and_are_read_in_thirty_two(network, tmp_path):
    save_network(tmp_path / "whole.safetensors", network, {})
    save_network(tmp_path / "half.safetensors", network, {}, torch.float16)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    read = load_network(tmp_path / "half.safetensors")
    for name, value in read.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], atol=1e-3, rtol=1e-3)
