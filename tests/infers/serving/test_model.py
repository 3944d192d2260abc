import dataclasses
import threading

import pytest
import torch

from infers.serving.model import BASE, ServedModel
from infers.settings import ConfigError
from lib.finetuning.versions import Versions
from lib.networks import OnePrompt
from lib.networks.checkpoints import CheckpointError, load_network, save_network, weights_hash
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.samples import TINY


def publish(path, base, seed=1):
    torch.manual_seed(seed)
    network = OnePrompt(TINY)
    save_network(path, network, {BASE: base})
    return weights_hash(network)


@pytest.fixture
def model(tiny_weights, tmp_path):
    model = ServedModel(tiny_weights, tmp_path / "published.safetensors", "cpu")
    model.load()
    return model


@pytest.fixture
def versions(model, tmp_path):
    return Versions(tmp_path / "versions", model.published)


def test_published_weights_are_served_from_the_next_request_on(model):
    before = model.segmenter
    assert before.weights_hash == model.base_hash
    after = publish(model.published, model.base_hash)
    assert model.weights_hash == after != before.weights_hash
    assert model.path == model.published
    assert model.segmenter is model.segmenter
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


def test_an_upload_of_another_configuration_is_refused(model, versions, tmp_path):
    other = dataclasses.replace(TINY, name="other", prompt_channels=8)
    save_network(tmp_path / "other.safetensors", OnePrompt(other), {})
    with pytest.raises(CheckpointError, match="'tiny' that is served, got 'other'"):
        model.publish(tmp_path / "other.safetensors", versions)
    assert model.weights_hash == model.base_hash
    uploaded = publish(tmp_path / "same.safetensors", "whatever it came from")
    model.publish(tmp_path / "same.safetensors", versions)
    assert model.weights_hash == uploaded != model.base_hash
    assert [record["state"] for record in versions.all()] == ["uploaded"]


def test_what_an_upload_says_of_itself_is_kept_and_is_no_record_of_this_server(model, versions, tmp_path):
    torch.manual_seed(3)
    told = {"created": "soon", "state": "published", "before": 1, "after": {"dice": "x"}, "base": "another"}
    save_network(tmp_path / "upload.safetensors", OnePrompt(TINY), told)
    model.publish(tmp_path / "upload.safetensors", versions)
    [record] = versions.all()
    assert (record["state"], record["base"], record["uploaded"]) == ("uploaded", model.base_hash, told)
    assert isinstance(record["created"], float)
    assert not {"before", "after"} & record.keys()


def test_any_version_can_be_gone_back_to(model, versions, tmp_path):
    publish(tmp_path / "upload.safetensors", "")
    model.publish(tmp_path / "upload.safetensors", versions)
    version = model.weights_hash
    model.serve("base", versions)
    assert model.weights_hash == model.base_hash
    model.serve(version, versions)
    assert model.weights_hash == version
    model.serve(model.base_hash, versions)
    assert model.weights_hash == model.base_hash


def test_a_version_of_another_line_is_refused(model, versions):
    torch.manual_seed(1)
    name = versions.add(OnePrompt(TINY), {BASE: "another"})
    with pytest.raises(CheckpointError, match="trained from other weights"):
        model.serve(name, versions)
    assert model.weights_hash == model.base_hash


def test_who_asks_while_weights_are_loaded_is_answered_by_the_old_ones(tiny_weights, tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def slowly(network, device, estimator):
        if weights_hash(network) != model_hash:
            entered.set()
            assert leave.wait(120)
        return SliceSegmenter(network, device, estimator=estimator)

    model_hash = weights_hash(load_network(tiny_weights))
    model = ServedModel(tiny_weights, tmp_path / "published.safetensors", "cpu", slowly)
    after = publish(model.published, model.base_hash)
    loading = threading.Thread(target=lambda: model.segmenter)
    loading.start()
    assert entered.wait(120)
    assert model.segmenter.weights_hash == model.base_hash  # at once
    threading.Timer(0.2, leave.set).start()
    assert model.weights_on_disk() == after  # who waits is told of the new ones
    loading.join()
    assert model.weights_hash == after


def test_a_gpu_that_is_not_there_is_refused_at_start(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cpu or auto"):
        ServedModel(tiny_weights, tmp_path / "published.safetensors", "cuda:1")


def test_missing_base_weights_are_refused_at_start(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        ServedModel(tmp_path / "none.safetensors", tmp_path / "published.safetensors", "cpu").load()


def test_published_weights_are_judged_by_what_was_valid_for_the_configured_ones(model, tiny_weights):
    assert model.estimator is not None
    assert model.estimator.about["weights"] == model.base_hash
    publish(model.published, model.base_hash)
    assert model.segmenter.weights_hash != model.base_hash
    assert model.segmenter._estimator is model.estimator


def test_a_training_learns_which_file_is_served_and_no_network_stays_in_memory(tiny_weights, tmp_path):
    def make(network, device, **options):
        raise AssertionError("nobody asked for an answer")

    model = ServedModel(tiny_weights, tmp_path / "published.safetensors", "cpu", make)
    assert (model.path, model.weights_hash) == (tiny_weights, model.base_hash)
    better = publish(model.published, model.base_hash)
    assert (model.path, model.weights_hash) == (model.published, better)
    publish(model.published, "other weights")
    assert (model.path, model.weights_hash) == (tiny_weights, model.base_hash)
