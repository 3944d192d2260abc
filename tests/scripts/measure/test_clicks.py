"""What is promised of clicks and compared with the last time; never how long anything takes."""

import json

from scripts.measure.clicks import MOST, compared, phantom, targets


def test_a_promise_is_kept_up_to_its_bound_and_of_what_was_measured_alone():
    measured = {"slice click": {"core": MOST["slice click"], "wall": 9.0}, "new place": {"core": 99.0, "wall": 1.0}}
    kept = {one.name: one.met for one in targets({**measured, "first click": {"core": 1.0, "wall": 1.0}})}
    assert kept == {"slice click": True, "new place": False}
    assert targets(measured)[1].to_json() == {
        "name": "new place",
        "value": 99.0,
        "target": MOST["new place"],
        "met": False,
    }


def test_the_last_entry_of_a_history_is_what_is_compared_with(tmp_path):
    now = targets({"slice click": {"core": 0.2, "wall": 1.0}, "new place": {"core": 3.0, "wall": 1.0}})
    history = tmp_path / "history.jsonl"
    assert compared(now, history) == []
    entries = [{"targets": [{"name": "slice click", "value": value}]} for value in (0.4, 0.3)]
    history.write_text("".join(json.dumps(one) + "\n" for one in entries))
    assert compared(now, history) == [("slice click", 0.3, 0.2)]


def test_the_phantom_is_the_same_every_time_and_shows_what_is_clicked():
    grey = phantom((64, 48, 6)).get_fdata()
    assert (grey == phantom((64, 48, 6)).get_fdata()).all()
    assert 60 < grey[round(0.35 * 64), round(0.45 * 48), 3] < 160
