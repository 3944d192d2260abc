"""`scripts.compare_uniseg` on phantoms: every variant gives a row, and a stopped command goes on."""

import json
from pathlib import Path

import pytest

from lib.finetuning.uniseg.lists import read_list
from lib.segmenters.uniseg.model import load_model
from scripts.compare_uniseg import main, table
from scripts.phantoms import data_set
from tests.lib.finetuning.uniseg.phantoms import study


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One list of three subjects, the last of them with two studies."""
    folder = tmp_path / "data" / "balls"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    subjects = {}
    for seed in range(4):
        made = study(tmp_path, seed)
        made.image.rename(folder / "images" / f"{seed}.nii.gz")
        made.label.rename(folder / "labels" / f"{seed}.nii.gz")
        subjects[f"{seed}.nii.gz"] = f"subject {min(seed, 2)}"
    about = {"labels": {"1": "ball", "2": "stone"}, "subjects": subjects}
    (folder / "dataset.json").write_text(json.dumps(about))
    return tmp_path / "data"


def command(data: Path, *more: str) -> int:
    rows = data.parent / "rows.jsonl"
    fixed = ["--data", str(data), "--lists", "balls", "--rows", str(rows), "--seeds", "1", "--steps", "1"]
    return main([*fixed, "--labelled", "2", "--asked", "1", *more])


def rows(data: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (data.parent / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of two steps."""
    monkeypatch.setattr("scripts.compare_uniseg.EPOCH", 2)


def test_every_variant_gives_a_row_and_what_was_learnt_is_a_start(data: Path) -> None:
    models = data.parent / "models"
    assert command(data, "--models", str(models), "--table", str(data.parent / "t.md")) == 0
    found = {row["variant"]: row for row in rows(data)}
    assert set(found) == {"universal", "one-hot", "heads", "single"}
    assert all(set(row["structures"]) == {"ball", "stone"} for row in found.values())  # type: ignore[call-overload]
    assert found["universal"]["tasks"].keys() == {"ball", "stone"}  # type: ignore[attr-defined]
    assert "| balls | 2 | 1 | universal | random |" in (data.parent / "t.md").read_text()
    [kept] = models.iterdir()
    assert len(load_model(kept).tasks) == 2
    assert command(data, "--start", str(kept), "--variants", "universal", "single") == 0
    assert [row["variant"] for row in rows(data)][4:] == ["universal", "single"]


def test_what_is_stopped_goes_on_and_what_is_finished_is_not_done_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data, "--variants", "heads", "--minutes", "0") == 2
    assert "1 runs are left: give the same command again" in capsys.readouterr().err
    assert command(data, "--variants", "heads") == 0
    assert command(data, "--variants", "heads") == 0
    assert len(rows(data)) == 1


def test_lists_are_learnt_together_each_a_task_or_each_structure_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_set, "SHAPE", (16, 16, 12))
    monkeypatch.setattr(data_set, "SPACING", (24.0, 24.0, 18.0))
    lists = ["--lists", "balls", "phantoms-PT", "--whole", "phantoms-PT", "--without", "3.nii.gz"]
    assert command(data, *lists, "--together", "--variants", "universal", "single") == 0
    together, alone = rows(data)
    for row in (together, alone):
        assert set(row["tasks"]) == {"ball", "stone", "phantoms-PT"}  # type: ignore[call-overload]
        assert "phantoms-PT liver" in row["structures"]  # type: ignore[operator]
    assert together["dice"] == pytest.approx(sum(together["tasks"].values()) / 3, abs=0.01)  # type: ignore[attr-defined]
    assert len(read_list(data.parent / "rows.work" / "phantoms-PT")) == 3


def test_a_list_with_too_few_subjects_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(data, "--labelled", "3") == 1
    assert "balls has 3 subjects, wanted are 3 labelled and 1 others" in capsys.readouterr().err


def test_the_table_is_of_means_over_seeds() -> None:
    row = {"lists": ["a", "b"], "labelled": 4, "steps": 9, "variant": "heads", "start": "", "seed": 0}
    both = ({**row, "dice": dice, "tasks": {"liver": dice - 5, "spleen": dice + 5}} for dice in (80.0, 90.0))
    lines = table(list(both)).splitlines()
    assert lines[2] == "| a+b | 4 | 9 | heads | random | 85.0 ± 7.1 | liver 80.0, spleen 90.0 | 2 |"
