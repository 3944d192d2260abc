"""Points of training curves: what a run's folder says of its cost, and tables and folders that say nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lib.networks import OnePrompt
from lib.networks.checkpoints import CheckpointError, save_network
from scripts.draw_training import TABLE
from scripts.pretraining.points import PointError, history, points_of_run, read_points
from tests.samples import TINY

TOLD = {
    "stages": [{"size": 64, "episodes": 8, "steps": 4}, {"size": 128, "episodes": 4, "steps": 4}],
    "steps": 8,
    "queries": 96,
    "hours": 0.6,
    "datasets": ["one", "two"],
}
LOG = [
    *({"step": step, "loss": 1.0, "queries_per_second": 16} for step in (2, 4)),
    {"step": 4, "held_out/one": 30.0, "held_out/mean": 31.04},
    {"step": 4, "held_out_4/mean": 40},
    *({"step": step, "loss": 1.0, "queries_per_second": 4} for step in (6, 8)),
    {"step": 8, "held_out/mean": 35},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run of eight steps leaves it."""
    write(tmp_path / "mine", TOLD, LOG)
    return tmp_path / "mine"


def write(folder, told, log):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_network(folder / "ema.safetensors", OnePrompt(TINY), told)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def test_queries_and_hours_of_a_run_are_shared_out_among_its_steps(run):
    points = points_of_run(run)
    assert [(p.steps, p.size, p.templates, p.dice) for p in points] == [
        (4, 64, 1, 31.0),
        (4, 64, 4, 40.0),
        (8, 128, 1, 35.0),
    ]
    assert [(p.queries, p.hours, p.interpolated) for p in points[1:]] == [(64, 0.2, True), (96, 0.6, False)]
    assert {(p.network, p.run, p.data_sets) for p in points} == {("tiny", "mine", 2)}


def test_of_steps_that_a_run_wrote_twice_the_last_line_counts(run):
    again = [{"step": 8, "queries_per_second": 1}, {"step": 8, "held_out/mean": 36}]
    write(run, TOLD, LOG + again)
    last = points_of_run(run)[-1]
    assert (last.dice, points_of_run(run)[0].hours) == (36.0, 0.1)


def test_what_a_run_goes_on_from_counts_once_however_many_runs_began_with_it(run):
    first = {"queries": 100, "hours": 1.0, "parent": None}
    twins = [{"seed": seed, "queries": 10, "hours": 0.1, "parents": [first]} for seed in (1, 2)]
    write(run, TOLD | {"parents": twins}, LOG)
    assert points_of_run(run)[-1].queries == 100 + 2 * 10 + 96
    assert points_of_run(run)[-1].hours == pytest.approx(1.0 + 2 * 0.1 + 0.6)


def test_the_network_whose_encoder_was_taken_over_is_not_counted():
    own = {"network": "promptseg", "queries": 5, "parents": [{"queries": 100}]}
    assert history({"network": "promptseg", "parents": [own]}) == [own]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON\n", "JSON lines"),
        ('{"step": 1, "queries_per_second": 3}\n[1, 2]\n', "line 2"),
        ('{"epoch": 1, "loss": 3}\n', "line 1.* must have .*step"),
        ('{"step": 1, "held_out/mean": 130}\n', "line 1.*held_out must be numbers from 0 to 100"),
        ('{"step": 1, "queries_per_second": 3}\n', "--validate-every"),
    ],
)
def test_a_foreign_log_or_one_without_scores_is_refused(run, text, message):
    (run / "log.jsonl").write_text(text)
    with pytest.raises(PointError, match=message):
        points_of_run(run)


def test_a_folder_without_log_or_with_weights_of_something_else_is_refused(run, tmp_path):
    with pytest.raises(PointError, match=r"log\.jsonl"):
        points_of_run(tmp_path)
    write(run, {"command": "another"}, LOG)
    with pytest.raises(PointError, match=r"ema\.safetensors must have .*stages"):
        points_of_run(run)
    (run / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        points_of_run(run)


def test_the_committed_table_can_be_read_and_no_run_in_it_gives_steps_back():
    points = read_points(TABLE)
    runs = {(p.network, p.run, p.templates, p.pairs) for p in points}
    for key in runs:
        own = [p for p in points if (p.network, p.run, p.templates, p.pairs) == key]
        assert all(a.steps < b.steps and a.queries < b.queries and a.hours < b.hours for a, b in pairwise(own)), key
    assert {p.network for p in points if p.ships} == {"small", "promptseg"}


def test_a_row_that_lacks_something_is_named_by_its_line(tmp_path):
    rows = TABLE.read_text().splitlines()[:2]
    table = tmp_path / "table.jsonl"
    table.write_text(f"{rows[0]}\n{rows[1].replace('dice', 'score')}\n")
    with pytest.raises(PointError, match="line 2"):
        read_points(table)
