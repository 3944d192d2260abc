import dataclasses

import pytest
import torch

from infers.model import BASE, ServedModel
from lib.checkpoints import CheckpointError, save_network, weights_hash
from lib.config import ConfigError
from lib.networks import OnePrompt
from tests.samples import TINY


def publish(path, base, seed=1):
    torch.manual_seed(seed)
    network = OnePrompt(TINY)
    save_network(path, network, {BASE: base})
    return weights_hash(network)


@pytest.fixture
def model(tiny_weights, tmp_path):
    return ServedModel(tiny_weights, tmp_path / "published.safetensors", "cpu")


def test_published_weights_are_served_from_the_next_request_on(model):
    before = model.predictor
    assert before.weights_hash == model.base_hash
    after = publish(model.published, model.base_hash)
    assert model.weights_hash == after != before.weights_hash
    assert model.path == model.published
    assert model.predictor is model.predictor
    newer = publish(model.published, model.base_hash, seed=2)
    assert model.weights_hash == newer


def test_removed_weights_give_way_to_the_configured_ones(model):
    publish(model.published, model.base_hash)
    assert model.weights_hash != model.base_hash
    model.published.unlink()
    assert model.weights_hash == model.base_hash


def test_weights_of_another_line_are_not_served(model):
    publish(model.published, "something else")
    assert model.weights_hash == model.base_hash
    assert model.path == model.base


def test_a_torn_file_leaves_what_is_served(model):
    served = publish(model.published, model.base_hash)
    assert model.weights_hash == served
    model.published.write_bytes(b"torn")
    assert model.weights_hash == served


def test_an_upload_of_another_configuration_is_refused(model, tmp_path):
    other = dataclasses.replace(TINY, name="other", prompt_channels=8)
    save_network(tmp_path / "other.safetensors", OnePrompt(other), {})
    with pytest.raises(CheckpointError, match="'tiny' that is served, got 'other'"):
        model.publish(tmp_path / "other.safetensors")
    assert model.weights_hash == model.base_hash
    publish(tmp_path / "same.safetensors", "whatever it came from")
    model.publish(tmp_path / "same.safetensors")
    assert model.weights_hash != model.base_hash


def test_a_gpu_that_is_not_there_is_refused_at_start(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cpu or auto"):
        ServedModel(tiny_weights, tmp_path / "published.safetensors", "cuda:1")


def test_missing_base_weights_are_refused_at_start(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        ServedModel(tmp_path / "none.safetensors", tmp_path / "published.safetensors", "cpu")
