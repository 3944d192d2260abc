"""Pretraining as a command: it runs, stops, goes on exactly, and keeps the last good checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.learning.datasets import read_dataset
from lib.learning.episodes import load_real_tasks
from lib.learning.packs import read_pack
from lib.networks.checkpoints import load_network, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg
from scripts import pretrain
from scripts.pretraining import run as pretraining_run
from scripts.pretraining.stages import Stage, stage_at


def run(folder, stages, *more):
    pretrain.main(["--run", str(folder), "--stages", stages, "--log-every", "1", "--save-every", "2", *more])
    return load_network(folder / "ema.safetensors")


def test_a_run_that_was_stopped_ends_with_the_same_weights_as_one_that_was_not(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "32x1:2,64x1:2")
    real_step, calls = pretraining_run.training_step, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(pretraining_run, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", "32x1:2,64x1:2")
    monkeypatch.undo()
    resumed = run(tmp_path / "stopped", "32x1:2,64x1:2")
    assert weights_hash(resumed) == weights_hash(whole)
    lines = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert read_provenance(tmp_path / "whole" / "ema.safetensors")["steps"] == 4


def test_episodes_that_worker_processes_draw_lead_to_the_same_weights(tmp_path):
    alone = run(tmp_path / "alone", "32x1:1,64x1:2")
    helped = run(tmp_path / "helped", "32x1:1,64x1:2", "--workers", "1")
    assert weights_hash(alone) == weights_hash(helped)


def test_a_run_whose_time_is_up_ends_whole_and_goes_on_where_it_stopped(tmp_path):
    whole = run(tmp_path / "whole", "32x1:2")
    run(tmp_path / "short", "32x1:2", "--minutes", "0")
    assert read_provenance(tmp_path / "short" / "ema.safetensors")["steps"] == 1
    assert weights_hash(run(tmp_path / "short", "32x1:2")) == weights_hash(whole)


def test_checkpoints_come_by_time_where_steps_are_slow(tmp_path, monkeypatch):
    saved = []
    real = pretraining_run.save_network
    monkeypatch.setattr(pretraining_run, "save_network", lambda *a: saved.append(a[2]["steps"]) or real(*a))
    run(tmp_path, "32x1:3", "--save-every", "1000", "--save-minutes", "0")
    assert sorted(set(saved)) == [1, 2, 3]


def flat_dataset(folder, name, split):
    folder = folder / name
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        grey, label = rng.integers(0, 99, (40, 40), np.uint8), np.zeros((40, 40), np.uint8)
        label[8:30, 8 + number : 28] = 1
        Image.fromarray(grey + 120 * label).save(folder / "images" / f"{number}.png")
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
    about = {"dims": 2, "labels": {"1": "square"}, "split": split, "terms": "open"}
    (folder / "dataset.json").write_text(json.dumps(about))


def test_data_sets_packed_into_one_file_train_as_the_folders_do(tmp_path):
    for name, split in (("one", "train"), ("two", "dev")):
        flat_dataset(tmp_path / "data", name, split)
    pretrain.main(["--data", str(tmp_path / "data"), "--terms", "open", "--pack", str(tmp_path / "data.npz")])
    packed = read_pack(tmp_path / "data.npz")
    folders = load_real_tasks(read_dataset(tmp_path / "data" / "one"))
    (one,), (two,) = packed["train"], packed["dev"]
    assert (one.name, two.name, sorted(one.showing)) == ("one", "two", [1])
    np.testing.assert_array_equal(one.labels, folders.labels)
    np.testing.assert_array_equal(one.subjects, folders.subjects)
    np.testing.assert_allclose(one.images, folders.images, atol=np.ptp(folders.images) / 500)
    run(tmp_path / "run", "32x1:1", "--data", str(tmp_path / "data.npz"), "--synthetic", "0", "--foreign", "0")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert "held_out/two" in lines[-1]


def test_a_torn_pack_and_a_pack_without_data_are_refused(tmp_path, capsys):
    (tmp_path / "torn.npz").write_bytes(b"PK torn")
    with pytest.raises(SystemExit, match="whole pack"):
        run(tmp_path / "run", "32x1:1", "--data", str(tmp_path / "torn.npz"))
    with pytest.raises(SystemExit):
        pretrain.parse(["--pack", str(tmp_path / "all.npz")])
    assert "comes with --data" in capsys.readouterr().err


def test_a_corrupt_checkpoint_stops_with_a_clear_message(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(SystemExit, match="remove it to begin anew"):
        run(tmp_path, "32x1:1")


def test_a_full_disk_costs_one_checkpoint_and_not_the_run(tmp_path, monkeypatch, capsys):
    run(tmp_path, "32x1:2")
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretraining_run, "write_atomically", full)
    run(tmp_path, "32x1:4")
    assert "the one before stays" in capsys.readouterr().out
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_stages_follow_each_other_and_the_last_goes_on():
    stages = Stage.parse("64x8:10,128x4:5")
    assert [stage_at(stages, step).size for step in (0, 9, 10, 14, 99)] == [64, 64, 128, 128, 128]


@pytest.mark.parametrize("text", ["64", "64x8", "axb:c", ""])
def test_stages_that_cannot_be_read_are_refused_with_an_example(text, capsys):
    with pytest.raises(SystemExit):
        pretrain.parse(["--run", "x", "--stages", text])
    assert "64x8:4000,128x4:20000" in capsys.readouterr().err


def test_ablations_are_part_of_the_configuration(tmp_path):
    network = run(tmp_path, "32x1:1", "--without", "gaussian_masking", "--threads", "1")
    assert not network.config.gaussian_masking
    assert network.config.prompt_parser
    assert torch.get_num_threads() == 1


def test_weights_know_the_run_that_their_start_came_from(tmp_path):
    run(tmp_path / "first", "32x1:2", "--optimizer", "adamw")
    run(tmp_path / "second", "32x1:1", "--start", str(tmp_path / "first" / "ema.safetensors"))
    provenance = read_provenance(tmp_path / "second" / "ema.safetensors")
    (parent,) = provenance["parents"]
    assert (provenance["optimizer"], parent["optimizer"]) == ("muon", "adamw")
    assert parent["steps"] == 2
    assert parent["parents"] == []


def test_runs_from_one_start_are_joined_by_the_mean_of_their_weights(tmp_path):
    networks = [run(tmp_path / name, "32x1:2", "--seed", name) for name in ("1", "2")]
    weights = [str(tmp_path / name / "ema.safetensors") for name in ("1", "2")]
    joined = run(tmp_path / "joined", "32x1:0", "--start", *weights)
    for name, value in joined.state_dict().items():
        mean = sum(network.state_dict()[name] for network in networks) / 2
        torch.testing.assert_close(value, mean)
    assert [parent["seed"] for parent in read_provenance(tmp_path / "joined" / "ema.safetensors")["parents"]] == [1, 2]


def test_a_folder_without_data_sets_and_weights_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong in (["--data", str(tmp_path / "empty")], ["--start", str(tmp_path / "nothing.safetensors")]):
        with pytest.raises(SystemExit, match=r"empty|does not exist"):
            run(tmp_path / "run", "32x1:1", *wrong)


def test_promptseg_begins_from_one_prompt_and_goes_on_from_itself(tmp_path):
    start = run(tmp_path / "one", "32x1:1", "--config", "small-v2")
    network = ["--network", "promptseg", "--start"]
    weights = {name: tmp_path / name / "ema.safetensors" for name in ("one", "first", "second")}
    for before, name in (("one", "first"), ("first", "second")):
        folder = str(tmp_path / name)
        options = ["--run", folder, "--stages", "32x2:1", "--queries", "3", "--freeze-encoder", "--log-every", "1"]
        pretrain.main([*options, *network, str(weights[before])])
    first, second = (load_network(weights[name], "cpu", PromptSeg) for name in ("first", "second"))
    assert weights_hash(first) != weights_hash(second)
    for one in (first, second):
        pairs = zip(one.image_encoder.parameters(), start.image_encoder.parameters(), strict=True)
        assert all(torch.equal(own, former) for own, former in pairs)
    provenance = read_provenance(weights["second"])
    assert (provenance["network"], provenance["frozen"]) == ("promptseg", ["image_encoder"])
    assert provenance["parents"][0]["network"] == "promptseg"
    (line,) = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    assert any("prompt" in name for name in line)
    with pytest.raises(SystemExit, match="architecture 'oneprompt', got 'promptseg'"):
        run(tmp_path / "wrong", "32x1:1", "--start", str(weights["first"]))


def test_promptseg_refuses_a_start_with_other_parts_and_ablations_of_other_networks(tmp_path, capsys):
    run(tmp_path / "small", "32x1:1", "--without", "dense_correspondence")
    start = ["--network", "promptseg", "--start", str(tmp_path / "small" / "ema.safetensors")]
    with pytest.raises(SystemExit, match="with dense correspondence"):
        pretrain.main(["--run", str(tmp_path / "run"), "--stages", "32x1:1", *start])
    with pytest.raises(SystemExit):
        pretrain.parse(["--run", "x", "--network", "promptseg", "--without", "prompt_parser"])
    assert "no part of promptseg" in capsys.readouterr().err
