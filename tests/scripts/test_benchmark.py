"""The benchmark in its shortest form: what it runs, prints and writes; never how long anything takes."""

from __future__ import annotations

import json

import pytest

from scripts import benchmark
from scripts.measure.speed import passes

PEER = """
import torch

class Peer(torch.nn.Module):
    def forward(self, query, supports, masks):
        assert supports.shape[:2] == masks.shape[:2] == (len(query), 4)
        return (query * (supports * masks).mean(dim=1)).sum()

network = Peer
"""


def test_a_short_run_writes_costs_targets_and_what_they_were_measured_on(tmp_path, tiny_weights, monkeypatch, capsys):
    monkeypatch.setattr(passes, "PUBLISHED_SIZE", 32)
    (tmp_path / "peer.py").write_text(PEER)
    out, history = tmp_path / "out.json", tmp_path / "history.jsonl"
    command = ["--parts", "throughput", "passes", "studies", "--weights", str(tiny_weights), "--size", "32"]
    command += ["--ct", "32x32x6", "--rounds", "1", "--threads", "1", "--peer", str(tmp_path / "peer.py")]
    command += ["--json", str(out), "--history", str(history)]
    benchmark.main(command)
    results = json.loads(out.read_text())
    assert json.loads(history.read_text()) == results
    assert {"processor", "cores", "load", "torch", "monai", "numpy", "python"} == set(results["machine"])
    assert results["network"] == "tiny"
    names = [one["name"] for one in results["targets"]]
    assert names == [
        "encode, share of the peak",
        "decode, share of the peak",
        "peer peer, 4 supports / ours",
        "CT, 1 structure, 4 templates",
        "CT, six structures / one",
    ]
    assert all(set(one) == {"name", "value", "target", "least", "met"} for one in results["targets"])
    assert all(cost["core_95"] >= cost["core"] for cost in results["studies"].values())
    assert all(value > 0 for value in results["passes"]["milliseconds"].values())
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    benchmark.main([*command, "--parts", "throughput"])
    assert "value before" in capsys.readouterr().out


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


@pytest.mark.parametrize("shape", ["512x512", "axbxc", "0x5x5"])
def test_a_shape_that_is_none_is_refused_with_an_example(shape, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--shapes", shape])
    assert "512x512x78" in capsys.readouterr().err


def test_a_corrupt_checkpoint_is_named(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(SystemExit, match="not a whole safetensors file"):
        benchmark.main(["--weights", str(tmp_path / "torn.safetensors")])
