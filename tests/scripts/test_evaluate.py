"""The evaluation as a command: on a folder in the format, killed and resumed, and on bad input."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image as Picture

from scripts import evaluate
from scripts.measure.evaluation import records
from tests.scripts.measure.evaluation.samples import write_blocks, write_squares

SMALL = ["--queries", "2", "--volumes", "1", "--templates", "2", "--clicks", "2", "--threads", "1"]


def run(data, out, weights, *more):
    evaluate.main(["--data", str(data), "--json", str(out), "--weights", str(weights), *SMALL, *more])
    return json.loads(out.read_text())


@pytest.fixture
def data(tmp_path):
    write_squares(tmp_path / "data" / "squares")
    write_blocks(tmp_path / "data" / "blocks")
    return tmp_path / "data"


def test_a_run_measures_every_method_on_images_and_volumes(data, tmp_path, tiny_weights, capsys):
    out = tmp_path / "out.json"
    results = run(data, out, tiny_weights, "--split", "dev", "--curves", str(tmp_path / "curves.png"))
    with Picture.open(tmp_path / "curves.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 20
    found = {(row["method"], row["prompt"], row["templates"]) for row in results["overall"]}
    ours = {("One-Prompt", kind, n) for kind in ("seglab", "bbox", "doodle", "click") for n in (1, 4, 16)}
    others = {(name, "seglab", n) for name in ("copy", "prototypes") for n in (1, 4, 16)}
    clicks = {
        (name, prompt, 0)
        for name in ("One-Prompt", "MONAI Label scribbles", "random walker")
        for prompt in ("1 click", "3 clicks", "5 clicks")
    }
    assert found == ours | others | clicks | {("registration", "seglab", 1)}
    assert {(row["dataset"], row["label"]) for row in results["rows"]} == {
        ("squares", "square"),
        ("squares", "stripe"),
        ("blocks", "block"),
    }
    keys = {"dataset", "label", "method", "prompt", "templates", "mean", "worst", "median", "best", "n"}
    assert all(keys <= set(row) and 0 <= row["worst"] <= row["mean"] <= row["best"] <= 100 for row in results["rows"])
    assert all({"mean", "low", "high", "worst"} <= set(row) for row in results["overall"])
    sixteen = next(r for r in results["rows"] if r["dataset"] == "squares" and r["templates"] == 16)
    assert sixteen["reached"] == 5  # of six images, all but the query
    on_volumes = {(row["prompt"], row["templates"]) for row in results["rows"] if row["dataset"] == "blocks"}
    assert {("seglab", 1), ("seglab", 4), ("seglab", 16), ("bbox", 1), ("doodle", 1), ("click", 1)} <= on_volumes
    assert not results["unfinished"]
    page = out.with_suffix(".html").read_text()
    assert len(re.findall("<img ", page)) == 12  # best and worst of three structures, by a template and by clicks
    assert "| One-Prompt " in capsys.readouterr().out


def test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_numbers(
    data, tmp_path, tiny_weights, monkeypatch
):
    data, methods = data / "squares", ["--methods", "prototypes", "copy"]
    whole = run(data, tmp_path / "whole.json", tiny_weights, *methods)
    score, calls = records.score, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(records, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "cut.json", tiny_weights, *methods)
    calls.clear()
    monkeypatch.setattr(records, "score", lambda *arguments: calls.append(1) or score(*arguments))
    resumed = run(data, tmp_path / "cut.json", tiny_weights, *methods)
    resumed_calls = len(calls)
    assert resumed["rows"] == whole["rows"]
    assert resumed["overall"] == whole["overall"]
    calls.clear()
    run(data, tmp_path / "cut.json", tiny_weights, *methods, "--fresh")
    assert 0 < resumed_calls < len(calls)


def test_time_that_runs_out_is_reported_and_the_next_run_goes_on(data, tmp_path, tiny_weights, capsys):
    first = run(data / "squares", tmp_path / "out.json", tiny_weights, "--minutes", "0", "--methods", "copy")
    assert first["rows"] == []
    work = "copy, seglab, 1, 4, 16 templates"
    assert first["unfinished"] == [f"squares / square: {work}", f"squares / stripe: {work}"]
    assert "Not finished" in capsys.readouterr().out
    then = run(data / "squares", tmp_path / "out.json", tiny_weights, "--methods", "copy")
    assert then["rows"]
    assert not then["unfinished"]


def test_only_the_prompts_that_were_wanted_are_asked(data, tmp_path, tiny_weights, capsys):
    wanted = ("--methods", "One-Prompt", "copy", "--prompts")
    boxes = run(data / "squares", tmp_path / "boxes.json", tiny_weights, *wanted, "bbox")
    assert {(row["method"], row["prompt"]) for row in boxes["rows"]} == {("One-Prompt", "bbox")}
    clicks = run(data / "squares", tmp_path / "clicks.json", tiny_weights, *wanted, "clicks")
    assert {row["prompt"] for row in clicks["rows"]} == {"1 click", "3 clicks", "5 clicks"}


def test_large_groups_of_templates_can_be_left_out(data, tmp_path, tiny_weights):
    options = ("--methods", "copy", "--prompts", "seglab")
    everything = run(data / "squares", tmp_path / "all.json", tiny_weights, *options)["rows"]
    singles = run(data / "squares", tmp_path / "singles.json", tiny_weights, *options, "--several")["rows"]
    assert {row["templates"] for row in everything} > {1}
    assert singles == [row for row in everything if row["templates"] == 1]


def test_images_can_be_measured_without_the_volumes_and_volumes_alone(data, tmp_path, tiny_weights, capsys):
    for dims, name in (("2", "squares"), ("3", "blocks")):
        results = run(data, tmp_path / f"{dims}.json", tiny_weights, "--methods", "copy", "--dims", dims)
        assert {row["dataset"] for row in results["rows"]} == {name}
    with pytest.raises(SystemExit, match="leave --dims out"):
        run(data / "squares", tmp_path / "none.json", tiny_weights, "--dims", "3")


def test_a_bad_file_is_named_and_the_rest_is_measured(data, tmp_path, tiny_weights, capsys):
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(data / "squares" / "labels" / "1.png")
    with pytest.raises(SystemExit) as stopped:
        run(data / "squares", tmp_path / "out.json", tiny_weights, "--methods", "copy")
    assert stopped.value.code == 1
    assert "squares/1.png: image and label must have one shape" in capsys.readouterr().err
    results = json.loads((tmp_path / "out.json").read_text())
    assert {row["label"] for row in results["rows"]} == {"square", "stripe"}
    assert set(results["left_out"]) == {"squares/1.png"}


@pytest.mark.parametrize("broken", ["folder", "weights", "split"])
def test_what_cannot_be_measured_at_all_stops_with_the_reason(broken, data, tmp_path, tiny_weights):
    weights = tmp_path / "torn.safetensors"
    weights.write_bytes(b"torn")
    arguments = {
        "folder": (tmp_path / "empty", tiny_weights, "must be a data set folder"),
        "weights": (data, weights, "not a whole safetensors file"),
        "split": (data, tiny_weights, "there are"),
    }
    folder, weights, reason = arguments[broken]
    with pytest.raises(SystemExit, match=reason):
        run(folder, tmp_path / "out.json", weights, "--split", "eval" if broken == "split" else "dev")
    assert not (tmp_path / "out.json").exists()


def test_a_structure_that_no_image_shows_is_left_out_by_name(tmp_path, tiny_weights, capsys):
    labels = {"1": "square", "2": "stripe", "3": "ghost"}
    write_squares(tmp_path / "squares", labels=labels)
    results = run(tmp_path / "squares", tmp_path / "out.json", tiny_weights, "--methods", "copy")
    assert {row["label"] for row in results["rows"]} == {"square", "stripe"}
    assert results["left_out"] == {"squares / ghost": "needs images of at least two subjects that show it, got 0"}
    assert "squares / ghost" in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["finished work", "results"])
def test_a_full_disk_stops_with_the_reason_and_the_next_run_goes_on(kept, data, tmp_path, tiny_weights, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    out, copying = tmp_path / "out.json", ("--methods", "copy")
    if kept == "results":
        monkeypatch.setattr(evaluate, "write_atomically", full)
    else:
        monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SystemExit, match=r"No space left.*run again to go on"):
        run(data / "squares", out, tiny_weights, *copying)
    monkeypatch.undo()
    assert not out.exists()
    assert run(data / "squares", out, tiny_weights, *copying)["rows"]


def test_a_number_that_makes_no_sense_is_refused(data, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(["--data", str(data), "--queries", "0"])
    assert "--queries must be 1 or more" in capsys.readouterr().err


def test_promptseg_is_measured_where_its_weights_are_given_with_as_many_templates_as_are_asked_together(capsys):
    words = ["--data", "x", "--methods", "PromptSeg", "--several", "2", "8"]
    with pytest.raises(SystemExit):
        evaluate.parse(words)
    assert "needs --promptseg FILE" in capsys.readouterr().err
    settings = evaluate.settings_of(evaluate.parse([*words, "--promptseg", "weights"]))
    assert settings.several == ((2, 4), (8, 1))
