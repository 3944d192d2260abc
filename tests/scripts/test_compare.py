"""Options on the same pairs: paired differences, and the command."""

import json

import numpy as np
import pytest

from lib.networks.checkpoints import load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from scripts import compare
from scripts.compare import Option, compared
from tests.scripts.measure.evaluation.samples import write_squares

FOUND = [Option("plain", "plain"), Option("other", "plain"), Option("several", "plain", templates=4)]


def record(option, group, query, dice, seconds=1.0, dataset="a"):
    return {
        "dataset": dataset,
        "label": "x",
        "option": option,
        "group": group,
        "query": query,
        "dice": dice,
        "seconds": seconds,
    }


def test_gains_are_paired_by_template_and_query():
    plain = [record("plain", g, q, 10 * n) for n, (g, q) in enumerate([("t1", "q1"), ("t1", "q2"), ("t2", "q1")])]
    other = [record("other", r["group"], r["query"], r["dice"] + 3, 2.0) for r in plain]
    row = next(r for r in compared(plain + other, FOUND) if r["option"] == "other" and r["dataset"] is None)
    assert (row["gain"], row["low"], row["high"], row["times"], row["dice"]) == (3, 3, 3, 2, 13)


def test_a_group_of_templates_is_compared_with_the_mean_of_single_ones():
    plain = [record("plain", g, "q", dice) for g, dice in (("t1", 20.0), ("t2", 40.0))]
    row = compared([*plain, record("several", "group 1", "q", 50.0)], FOUND)[-1]
    assert (row["option"], row["gain"]) == ("several", 20)


def test_a_data_set_counts_once():
    records = []
    for dataset, queries, gain in (("a", 9, 0.0), ("b", 1, 10.0)):
        for n in range(queries):
            records.append(record("plain", "t", f"q{n}", 50.0, dataset=dataset))
            records.append(record("other", "t", f"q{n}", 50.0 + gain, dataset=dataset))
    rows = {row["dataset"]: row["gain"] for row in compared(records, FOUND) if row["option"] == "other"}
    assert rows == {None: 5.0, "a": 0.0, "b": 10.0}


def test_the_command_compares_on_the_same_pairs_and_uses_what_is_finished(tmp_path, tiny_weights, capsys, monkeypatch):
    write_squares(tmp_path / "squares")
    arguments = ["--data", str(tmp_path), "--weights", str(tiny_weights), "--json", str(tmp_path / "out.json")]
    arguments += ["--queries", "2", "--templates", "2", "--threads", "1"]
    arguments += ["--options", "as served", "cut at one half", "4 nearest of 8", "4 templates"]
    compare.main(arguments)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    overall = {row["option"]: row for row in rows if row["dataset"] is None}
    assert set(overall) == {"as served", "cut at one half", "4 nearest of 8", "4 templates"}
    assert overall["as served"]["gain"] == 0
    assert np.isfinite([row["gain"] for row in rows]).all()
    assert "| cut at one half" in capsys.readouterr().out
    monkeypatch.setattr(compare, "answered", lambda *_: pytest.fail("asked again"))
    compare.main(arguments)
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == rows


@pytest.mark.parametrize("wrong", ["data", "weights"])
def test_data_and_weights_that_cannot_be_used_are_told_in_one_sentence(tmp_path, tiny_weights, wrong):
    write_squares(tmp_path / "squares")
    given = {"data": tmp_path, "weights": tiny_weights, wrong: tmp_path / "nowhere"}
    with pytest.raises(SystemExit, match="nowhere"):
        compare.main([text for key, path in given.items() for text in (f"--{key}", str(path))])


def test_ways_of_using_promptseg_are_compared_where_its_weights_are_given(tmp_path, tiny_weights, promptseg_weights):
    write_squares(tmp_path / "squares")
    words = ["--data", str(tmp_path), "--weights", str(tiny_weights), "--promptseg", str(promptseg_weights)]
    words += ["--json", str(tmp_path / "out.json"), "--queries", "1", "--templates", "1", "--threads", "1"]
    compare.main([*words, "--options", "4 templates", "4 templates, network's size alone"])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["weights"] == weights_hash(load_network(promptseg_weights, "cpu", PromptSeg))
    assert {row["option"] for row in results["rows"]} == {"4 templates, network's size alone"}
