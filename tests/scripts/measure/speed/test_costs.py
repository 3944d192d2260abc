"""How costs are taken, judged and compared with the last time; never how long anything takes."""

from __future__ import annotations

import json

from scripts.measure.speed.costs import Cost, Piece, Target, at_least, at_most, compared, costs


def test_pieces_take_turns_and_the_first_turn_does_not_count():
    seconds, done = iter([0, 100, 0, 100, 0, 1, 0, 2, 0, 3, 0, 4]), []

    def turns():
        for _ in range(3):
            yield [Piece(name, lambda name=name: done.append(name), lambda: next(seconds)) for name in ("a", "b")]

    measured = costs(turns())
    assert done == ["a", "b"] * 3
    assert (measured["a"].core, measured["b"].core) == (2, 3)
    assert measured["a"].runs == 2
    assert measured["b"].core < measured["b"].core_95 <= 4


def test_a_cost_is_the_median_and_the_95th_percentile_of_both_clocks():
    assert Cost.of([(n, 10 * n) for n in range(1, 102)]) == Cost(51, 96, 510, 960, 101)


def test_a_promise_is_kept_up_to_its_bound_and_of_what_was_measured_alone():
    promises = at_most({"click": 0.35, "new place": 2.5, "list": 1.0}, {"click": 0.35, "new place": 9.0})
    assert [(one.name, one.met) for one in promises] == [("click", True), ("new place", False)]
    assert promises[1].to_json() == {"name": "new place", "value": 9.0, "target": 2.5, "least": False, "met": False}
    assert at_least("share", 0.3, 0.3).met
    assert not at_least("share", 0.29, 0.3).met


def test_each_target_is_compared_with_the_last_time_that_it_was_measured(tmp_path):
    now = [Target("click", 0.2, 0.35), Target("new place", 3.0, 2.5)]
    history = tmp_path / "history.jsonl"
    assert compared(now, history) == []
    entries = [[{"name": "click", "value": 0.4}], [{"name": "click", "value": 0.3}], [{"name": "list", "value": 1.0}]]
    history.write_text("".join(json.dumps({"targets": one}) + "\n" for one in entries))
    assert compared(now, history) == [("click", 0.3, 0.2)]
