"""Finished rows survive kills."""

from __future__ import annotations

import pytest

from scripts.measure.evaluation.store import FinishedRows, source_fingerprint


def test_finished_rows_are_found_again_by_their_key(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    FinishedRows(path).put("a", [{"dice": 1.5}])
    FinishedRows(path).put("b", iter([]))
    rows = FinishedRows(path)
    assert rows.get("a") == [{"dice": 1.5}]
    assert rows.get("b") == []
    assert rows.get("c") is None


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    FinishedRows(path).put("a", [{"dice": 1}])
    with path.open("ab") as file:
        file.write(b'{"unit": "b", "reco')
    rows = FinishedRows(path)
    assert rows.get("b") is None
    rows.put("c", [{"dice": 2}])
    again = FinishedRows(path)
    assert (again.get("a"), again.get("c")) == ([{"dice": 1}], [{"dice": 2}])


def test_a_unit_that_fails_half_way_keeps_nothing(tmp_path):
    def broken():
        yield {"dice": 1}
        raise KeyboardInterrupt

    rows = FinishedRows(tmp_path / "rows.jsonl")
    with pytest.raises(KeyboardInterrupt):
        rows.put("a", broken())
    assert FinishedRows(tmp_path / "rows.jsonl").get("a") is None


def test_a_fresh_start_forgets_and_other_code_has_another_fingerprint(tmp_path):
    path = tmp_path / "rows.jsonl"
    FinishedRows(path).put("a", [])
    assert FinishedRows(path, fresh=True).get("a") is None
    (tmp_path / "one.py").write_text("x = 1")
    before = source_fingerprint(tmp_path)
    (tmp_path / "one.py").write_text("x = 2")
    assert source_fingerprint(tmp_path) != before
