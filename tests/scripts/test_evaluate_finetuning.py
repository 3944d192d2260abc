import json

import pytest

import lib.networks.list_unet
from lib.finetuning.list_unet_training import ListUNetSettings
from scripts.evaluate_finetuning import main
from scripts.measure.finetuning_report import quality_line, report
from tests.samples import organ_volume, write_nifti

QUICK = ["--settings", "epochs=1,steps=2,batch=2", "--queries", "1", "--volume-queries", "1"]


@pytest.fixture
def data(tmp_path):
    """A list of three volumes."""
    for number in range(3):
        for name, array in zip(("images", "labels"), organ_volume(number, (32, 32, 5)), strict=True):
            (tmp_path / "data" / "organs" / name).mkdir(parents=True, exist_ok=True)
            write_nifti(tmp_path / "data" / "organs" / name / f"{number}.nii.gz", array)
    about = {"dims": 3, "labels": {"1": "organ"}, "split": "dev"}
    (tmp_path / "data" / "organs" / "dataset.json").write_text(json.dumps(about))
    return tmp_path / "data"


def run(data, tiny_weights, tmp_path, *more):
    return main(["--data", str(data), "--lists", "organs", "--weights", str(tiny_weights), "--rows",
                 str(tmp_path / "rows.jsonl"), "--table", str(tmp_path / "table.md"), *QUICK, *more])  # fmt: skip


def test_each_list_and_number_of_labels_is_a_row_that_is_measured_once(
    data, tiny_weights, tmp_path, capsys, monkeypatch
):
    assert run(data, tiny_weights, tmp_path, "--labelled", "1", "2", "16") == 0
    assert "3 subjects are too few for 16" in capsys.readouterr().out
    kept = [json.loads(line)["records"][0] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows = [record for record in kept if "labelled" in record]
    assert [(row["labelled"], row["queries"]) for row in rows] == [(1, 1), (2, 1)]
    assert all(0 <= row[key] <= 100 for row in rows for key in ("before", "after"))
    assert rows[0]["promptseg"] is None  # of one template
    assert 0 <= rows[1]["promptseg"] <= 100
    table = (tmp_path / "table.md").read_text()
    assert table.count("| organs |") == 2
    monkeypatch.setattr("scripts.evaluate_finetuning.measure", lambda *rest: pytest.fail("it was measured already"))
    assert run(data, tiny_weights, tmp_path, "--labelled", "1", "2") == 0
    assert (tmp_path / "table.md").read_text() == table


@pytest.fixture
def quick_specialist(monkeypatch):
    """A specialist of seconds."""
    monkeypatch.setattr(lib.networks.list_unet, "FILTERS", (4, 8, 8))
    quick = ListUNetSettings(epochs=1, steps=30, batch=2, rate=0.01)
    monkeypatch.setattr("scripts.evaluate_finetuning.ListUNetSettings", lambda: quick)


def rows_of(tmp_path):
    kept = [json.loads(line)["records"][0] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    return [record for record in kept if "labelled" in record]


@pytest.mark.parametrize("labelled", ["1", "2"])
def test_a_specialist_is_a_row_like_the_others_with_the_quality_predicted_for_its_masks(
    labelled, data, tiny_weights, tmp_path, monkeypatch, quick_specialist
):
    monkeypatch.setattr("tests.scripts.test_evaluate_finetuning.QUICK", QUICK[2:])
    assert run(data, tiny_weights, tmp_path, "--labelled", labelled, "--modes", "specialist") == 0
    [row] = rows_of(tmp_path)
    assert (row["mode"], row["won"]) == ("specialist", ["specialist"])
    assert 0 < row["share"] <= 1
    assert row["after"] > row["before"]  # of an untrained One-Prompt
    [[predicted, true]] = row["judged"]
    assert 0 <= predicted <= 1
    assert true == pytest.approx(row["after"] / 100, abs=1e-3)


def test_both_takes_of_each_part_what_its_verdict_says_and_trains_nothing_twice(
    data, tiny_weights, tmp_path, monkeypatch, quick_specialist
):
    kept = ["--labelled", "2", "--networks", str(tmp_path / "networks"), "--modes"]
    monkeypatch.setattr("lib.finetuning.oneprompt.FineTune.verdict", lambda self: (False, "it was refused"))
    assert run(data, tiny_weights, tmp_path, *kept, "both") == 0
    [both] = rows_of(tmp_path)
    assert (both["mode"], both["won"]) == ("both", ["specialist"])
    assert "it was refused; One-Prompt" in both["reason"]
    assert len(list((tmp_path / "networks").iterdir())) == 2
    monkeypatch.setattr("scripts.evaluate_finetuning.run", lambda course: pytest.fail("it was learnt already"))
    monkeypatch.setattr("tests.scripts.test_evaluate_finetuning.QUICK", QUICK[2:])
    assert run(data, tiny_weights, tmp_path, *kept, "specialist") == 0
    _, alone = rows_of(tmp_path)
    assert alone["after"] == both["after"]  # the fine-tuned weights had been refused


def test_the_quality_predicted_for_specialists_is_summed_up_where_they_won():
    row = {**ROW, "before": 40.0, "after": 50.0, "judged": [[0.5, 0.6], [0.6, 0.7], [0.7, 0.8]]}
    line = quality_line([{**row, "won": ["specialist"]}, {**row, "won": []}])
    assert "3 masks" in line
    assert "mean error 0.100 (-0.100 on the whole), correlation 1.00" in line
    assert quality_line([{**row, "won": []}]) == ""


def test_lists_that_pretraining_may_have_seen_are_refused(data, tiny_weights, tmp_path):
    about = json.loads((data / "organs" / "dataset.json").read_text())
    (data / "organs" / "dataset.json").write_text(json.dumps({**about, "split": "train"}))
    with pytest.raises(SystemExit, match="choose others"):
        run(data, tiny_weights, tmp_path)


ROW = {"list": "a", "labelled": 4, "mode": "full", "only_final": False, "cpu_seconds": 10.0,
       "before_one": 30.0, "after_one": 50.0}  # fmt: skip


def test_the_table_has_means_over_seeds_and_over_lists():
    rows = [{**ROW, "before": 40.0, "after": 50.0, "published": True, "promptseg": 44.0},
            {**ROW, "promptseg": 48.0, "before": 50.0, "after": 52.0, "published": True},
            {**ROW, "list": "b", "before": 60.0, "after": 66.0, "published": True}]  # fmt: skip
    a, b, mean = report(rows).splitlines()[-3:]
    assert a == "| a | 4 | full | 46.0 | 45.0 | 51.0 | +6.0 | +2.0 | 2 of 2 | 30.0 | 50.0 | 10 s |"
    assert b.startswith("| b | 4 | full | - | 60.0 | 66.0 | +6.0 |")
    assert mean.startswith("| **mean** | 4 | full | 46.0 | 50.0 | 56.0 | +6.0 | +2.0 | 3 of 3 |")


def test_what_is_not_published_leaves_what_is_served():
    row = {**ROW, "before": 40.0, "after": 50.0, "published": False}
    refused = "| a | 4 | full | - | 40.0 | 40.0 | +0.0 | +0.0 | 0 of 1 | 30.0 | 30.0 | 10 s |"
    assert report([row]).splitlines()[2] == refused
    without_a_verdict = report([{**row, "only_final": True}]).splitlines()[2]
    assert without_a_verdict == "| a | 4 | full | - | 40.0 | 50.0 | +10.0 | +10.0 |  | 30.0 | 50.0 | 10 s |"
