from scripts.measure.simulation.figures import curves, summary, table


def entry(id, start, dices=(), drawn=None):
    work = {"start": start, "dices": list(dices), "drawn": drawn or {}}
    return {"id": id, "structures": {"organ": work}, "final": {"organ": 0.92}}


LOG = [entry("a", 0.0, [0.5, 0.86, 0.91]), entry("b", 0.88, [0.9]), entry("c", 0.1, [0.2], {"0.85": 6, "0.9": 9})]
UNSEEN = [{"id": "d", "dice": {"organ": 0.95}}, {"id": "e", "dice": {"organ": 0.6}}]


def test_clicks_are_counted_to_each_goal():
    found = summary(LOG, UNSEEN)
    assert (found["opened"], found["unseen"], found["unseen_below_75"]) == (3, 2, 1)
    lower, higher = found["goals"]["0.85"], found["goals"]["0.9"]
    assert (lower["clicks"], lower["drawing"], lower["without_click"]) == (2 + 0 + 7, 6, 1)
    assert (higher["clicks"], higher["drawing"], higher["without_click"]) == (3 + 1 + 10, 9, 0)
    assert (lower["limited"], lower["reached"]) == (["c"], 4)
    assert found["unseen_dice"] == 77.5


def test_the_table_compares_with_per_image_interactive():
    text = table({"interactive": summary(LOG, []), "full": summary(LOG[:2], UNSEEN)})
    row = next(line for line in text.splitlines() if line.startswith("| full loop | 85%"))
    assert "-78 %" in row
    assert "4 of 4" not in row
    assert "3 of 4" in row


def test_the_curve_is_a_picture():
    assert curves({"interactive": LOG, "full": LOG[:2]}, {"full": 2}).startswith(b"\x89PNG")
