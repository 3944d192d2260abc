import json

import pytest

from infers.settings import AppConfig, ConfigError


def test_nothing_said_gives_the_defaults():
    assert AppConfig.from_conf({}) == AppConfig()
    assert AppConfig.from_conf({"server_mode": "true"}) == AppConfig()  # MONAI Label's own key


def test_every_setting_is_read_from_its_text(tmp_path):
    (tmp_path / "w.safetensors").touch()
    conf = {
        "labels": "liver,left kidney",
        "weights": str(tmp_path / "w.safetensors"),
        "models": str(tmp_path / "models"),
        "device": "cuda:1",
        "templates": "3",
        "auto_propagate": "Off",
        "quiet_seconds": "1.5",
        "state": str(tmp_path),
        "auto_finetune": "5",
        "specialist": "6",
        "finetuning": "epochs=2,mode=norms",
        "promptseg": str(tmp_path / "w.safetensors"),
        "model": "promptseg:4",
        "uniseg": str(tmp_path / "w.safetensors"),
        "uniseg_lists": str(tmp_path),
        "versions": "4",
        "versions_mb": "100",
        "upload_mb": "50",
        "image_mb": "60",
        "memory": "70",
        "hosts": "Ward.example., 10.0.0.7,[::1]",
        "engine": "ray://head:10001",
    }
    config = AppConfig.from_conf(conf)
    assert set(conf) == set(AppConfig.model_fields)
    assert config.labels == ("liver", "left kidney")
    assert config.uniseg_lists == (tmp_path,)
    assert config.weights == config.uniseg == config.promptseg == tmp_path / "w.safetensors"
    assert (config.device, config.templates, config.auto_propagate, config.quiet_seconds) == ("cuda:1", 3, False, 1.5)
    assert config.promptseg_from == 4
    assert (config.auto_finetune, config.specialist, config.versions, config.versions_mb) == (5, 6, 4, 100)
    assert (config.upload_mb, config.image_mb, config.memory) == (50, 60, 70)
    assert config.engine == "ray://head:10001"
    assert config.hosts == ("ward.example", "10.0.0.7", "::1")
    assert (config.finetuning.epochs, config.finetuning.mode) == (2, "norms")


@pytest.mark.parametrize(
    ("conf", "least"),
    [
        ({}, None),
        ({"model": "auto", "engine": "ray://head:10001"}, 0),  # workers of a cluster make One-Prompt
        ({"model": "oneprompt"}, 0),
        ({"model": "promptseg"}, 1),
        ({"model": "promptseg:8", "engine": "ray://head:10001"}, 8),
        ({"promptseg_from": "0"}, 0),  # as earlier releases said it
        ({"promptseg_from": "4"}, 4),
        ({"promptseg_from": "4", "model": "oneprompt"}, 0),
    ],
)
def test_the_model_of_the_list_says_from_how_many_templates_on_promptseg_is_it(conf, least):
    assert AppConfig.from_conf(conf).promptseg_from == least


def test_a_long_list_of_labels_comes_from_a_file(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(["liver", "spleen"]))
    assert AppConfig.from_conf({"labels": str(tmp_path / "labels.json")}).labels == ("liver", "spleen")


@pytest.mark.parametrize(
    ("key", "text", "hint"),
    [
        ("lables", "liver", "labels, weights"),
        ("labels", "liver,,spleen", "different names"),
        ("hosts", "http://ward.example", "without http://"),
        ("hosts", "*", "without http://"),
        ("hosts", "", "without http://"),
        ("engine", "head:6379", "ray://HOST:PORT"),
        ("labels", "liver,liver", "different names"),
        ("labels", "liver,Background", "background"),
        ("labels", "none.json", "readable JSON list"),
        ("weights", "/nowhere.safetensors", "existing file"),
        ("device", "gpu", "auto, cpu, cuda"),
        ("model", "uniseg", "auto, oneprompt, promptseg, or promptseg:N"),
        ("model", "promptseg:0", "N templates or more show, got 'promptseg:0'"),
        ("promptseg_from", "many", "got 'promptseg:many'"),
        ("device", "cpu:1", "auto, cpu, cuda"),
        ("templates", "0", "from 1 on"),
        ("templates", "many", "from 1 on"),
        ("quiet_seconds", "-1", "0 or more"),
        ("quiet_seconds", "nan", "0 or more"),
        ("auto_finetune", "-1", "from 1 on"),
        ("finetuning", "epoch=1", "must be among"),
        ("finetuning", "mode=none", "full, norms, lora"),
        ("versions", "0", "from 1 on"),
        ("auto_propagate", "perhaps", "true or false"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_allowed(key, text, hint):
    with pytest.raises(ConfigError, match=hint):
        AppConfig.from_conf({key: text})
