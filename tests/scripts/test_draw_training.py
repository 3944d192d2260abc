"""The picture of training: two panels, runs of one's own beside the table's, and rows for the table."""

from __future__ import annotations

import json

import pytest
from PIL import Image as Pillow

from lib.networks import OnePrompt
from lib.networks.checkpoints import save_network
from scripts.draw_training import TABLE, main
from scripts.pretraining.points import read_points
from tests.samples import TINY


@pytest.fixture
def run(tmp_path):
    """A folder of a run that learnt for ten steps."""
    folder = tmp_path / "mine"
    folder.mkdir()
    told = {"stages": [{"size": 128, "episodes": 4, "steps": 10}], "steps": 10, "queries": 80, "hours": 0.5}
    save_network(folder / "ema.safetensors", OnePrompt(TINY), told | {"datasets": []})
    lines = [{"step": 10, "queries_per_second": 2.0}, {"step": 10, "held_out/mean": 60.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_of_ones_own_are_drawn_beside_those_of_the_table(run, tmp_path):
    pictures = []
    for name, more in (("ours.png", []), ("both.png", ["--runs", str(run)])):
        assert main(["--out", str(tmp_path / name), *more]) == 0
        with Pillow.open(tmp_path / name) as picture:
            pictures.append(picture.convert("RGB"))
    assert pictures[0].width > 1.5 * pictures[0].height  # two panels
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_the_rows_of_a_run_can_be_added_to_the_table_as_they_are_printed(run, tmp_path, capsys):
    assert main(["--runs", str(run), "--rows"]) == 0
    table = tmp_path / "table.jsonl"
    table.write_text(TABLE.read_text() + capsys.readouterr().out)
    *before, added = read_points(table)
    assert before == read_points(TABLE)
    assert (added.run, added.queries, added.hours, added.dice) == ("mine", 80, 0.5, 60.0)


def test_what_is_no_run_ends_the_command_with_words(tmp_path):
    with pytest.raises(SystemExit, match=r"log\.jsonl must be a file of JSON lines"):
        main(["--runs", str(tmp_path), "--out", str(tmp_path / "none.png")])
    assert not (tmp_path / "none.png").exists()
