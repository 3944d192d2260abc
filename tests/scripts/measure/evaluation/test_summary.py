"""Numbers of records whose summary is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.measure.evaluation.report import report, table
from scripts.measure.evaluation.summary import summarise


def record(dataset, label, group, query, dice, method="One-Prompt", prompt="seglab", templates=1):
    return {
        "dataset": dataset,
        "label": label,
        "method": method,
        "prompt": prompt,
        "templates": templates,
        "reached": templates,
        "group": group,
        "query": query,
        "dice": dice,
        "surface": 100 - dice,
        "surface_percent": (100 - dice) / 10,
    }


def clicked(dataset, label, counts, dice, method="One-Prompt"):
    score = {"dice": dice, "surface": 1.0, "surface_percent": 0.5}
    return {
        "dataset": dataset,
        "label": label,
        "method": method,
        "query": "q",
        "clicks": {str(t): n for t, n in zip((80, 85, 90), counts, strict=True)},
        "got": {str(t): n < 20 for t, n in zip((80, 85, 90), counts, strict=True)},
        "after": {"1": score, "3": score, "5": score},
    }


RECORDS = [
    record("a", "liver", "t1", "q1", 80),
    record("a", "liver", "t1", "q2", 60),
    record("a", "liver", "t2", "q1", 40),
    record("a", "liver", "t2", "q2", 20),
    record("a", "liver", "t3", "q2", 50),  # t3 shows the subject of q1
    record("a", "spleen", "t1", "q1", 10),
    record("b", "nerve", "t1", "q1", 90),
]
UNITS = {"a": "mm", "b": "pixels"}


def test_worst_median_and_best_are_those_of_templates():
    (liver, _, nerve) = summarise(RECORDS, UNITS)["rows"]
    assert (liver["mean"], liver["worst"], liver["median"], liver["best"], liver["n"]) == (50, 30, 50, 70, 5)
    assert (liver["surface"], liver["surface_worst"], liver["surface_best"]) == (50, 70, 30)
    assert liver["low"] < 50 < liver["high"]
    assert (nerve["mean"], nerve["surface_unit"]) == (90, "pixels")


def test_a_data_set_counts_once_however_many_structures_it_has():
    (overall,) = summarise(RECORDS, UNITS)["overall"]
    assert overall["mean"] == 60  # mean of (50 + 10) / 2 and 90
    assert overall["worst"] == 55  # mean of (30 + 10) / 2 and 90
    assert (overall["datasets"], overall["labels"]) == (2, 3)
    assert overall["low"] <= 60 <= overall["high"]
    assert overall["high"] - overall["low"] > 30  # two data sets say little


def test_the_interval_shrinks_with_the_number_of_data_sets():
    rng = np.random.default_rng(0)
    many = [record(str(n), "x", "t", "q", rng.choice([40, 60])) for n in range(64)]
    units = {str(n): "mm" for n in range(64)}
    (overall,) = summarise(many, units)["overall"]
    assert overall["high"] - overall["low"] == pytest.approx(2 * 1.96 * 10 / 8, rel=0.2)  # the normal theory's


def test_clicks_are_averaged_and_what_was_never_reached_is_counted():
    records = [
        clicked("a", "liver", (2, 3, 20), 70),
        clicked("a", "liver", (4, 5, 20), 90),
        clicked("b", "nerve", (1, 1, 1), 95),
    ]
    results = summarise(records, UNITS)
    (liver, _) = results["clicks"]
    assert (liver["clicks80"], liver["clicks90"], liver["failed80"], liver["failed90"]) == (3, 20, 0, 100)
    (overall,) = results["clicks_overall"]
    assert (overall["clicks80"], overall["clicks80_median_task"], overall["failed90"]) == (2, 2, 50)
    after_one = next(row for row in results["rows"] if row["prompt"] == "1 click" and row["dataset"] == "a")
    assert (after_one["mean"], after_one["worst"], after_one["templates"], after_one["n"]) == (80, 70, 0, 2)


def test_the_report_names_the_margin_over_the_best_baseline_and_what_is_missing():
    others = [record("a", "liver", "t1", "q1", 45, method=name) for name in ("copy", "registration")]
    others.append(record("a", "liver", "t1", "q2", 49, method="registration"))
    results = summarise([*RECORDS, *others, clicked("a", "liver", (2, 3, 20), 70)], UNITS)
    text = report({**results, "left_out": {"a/x.png": "torn"}, "unfinished": ["b: registration"]})
    assert "One-Prompt +13.0 Dice against registration (which answered other structures too or fewer)" in text
    assert "- a/x.png: torn" in text
    assert "- b: registration" in text
    assert "clicks to 80 %" in text


def test_a_table_has_one_width_a_column():
    lines = table(["a", "method"], [["1", "x"], ["22", "longer than the head"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("|--")
