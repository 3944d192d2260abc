"""The benchmark's arithmetic and its stand-in; never how long anything takes."""

from __future__ import annotations

import json

import pytest
import torch

from scripts import benchmark
from scripts.benchmark import PublishedEncoder, ratios


def test_the_stand_in_has_the_published_number_of_parameters_and_levels():
    with torch.device("meta"):
        encoder = PublishedEncoder()
        levels = encoder(torch.empty(1, 3, 64, 64))
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(11.9e6, rel=0.005)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 64, 64),
        (256, 32, 32),
        (256, 16, 16),
        (256, 8, 8),
        (256, 4, 4),
    ]


def test_ratios_say_how_many_times_longer_the_first_takes(tmp_path):
    times = {f"{name}, {precision}": 8.0 for name in NAMES for precision in ("float32", "bfloat16")}
    times["published encoder, float32"] = 80.0
    times["query, bfloat16"] = 2.0
    found = {(r["slower"], r["faster"]): r["ratio"] for r in ratios(times)}
    assert found["published encoder, float32", "query, float32"] == 10
    assert found["query, float32", "query, bfloat16"] == 4
    assert found["query, bfloat16", "encoder, bfloat16"] == 0.25


NAMES = ["encoder", "query", "query, template encoded again", "query in a batch of 32", "published encoder"]


def test_a_run_times_every_pass_and_writes_what_it_printed(tmp_path, tiny_weights, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "PUBLISHED_SIZE", 32)
    out = tmp_path / "out.json"
    benchmark.main(
        ["--weights", str(tiny_weights), "--size", "32", "--rounds", "1", "--threads", "1", "--json", str(out)]
    )
    results = json.loads(out.read_text())
    assert set(results["milliseconds"]) == {f"{name}, {p}" for name in NAMES for p in ("float32", "bfloat16")}
    assert all(value > 0 for value in results["milliseconds"].values())
    assert results["network"] == "tiny"
    printed = capsys.readouterr().out
    assert all(str(row["ratio"]) in printed for row in results["ratios"])


def test_designs_are_timed_beside_each_other_and_beside_the_peak(tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["--designs", "small", "small-v2", "promptseg", "--size", "32", "--rounds", "1", "--threads", "1"]
    benchmark.main([*words, "--json", str(out)])
    rows = json.loads(out.read_text())
    assert [row["design"] for row in rows] == ["", *["small"] * 5, *["small-v2"] * 5, *["promptseg"] * 5]
    assert all(row["milliseconds"] > 0 and row["gflop"] > 0 for row in rows)
    several = {row["design"]: row["gflop"] for row in rows if row["pass"] == "query, 4 templates"}
    assert several["promptseg"] < several["small-v2"] < several["small"] / 2
    assert "gflop_per_second" in capsys.readouterr().out


def test_a_corrupt_checkpoint_is_named(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(SystemExit, match="not a whole safetensors file"):
        benchmark.main(["--weights", str(tmp_path / "torn.safetensors")])
