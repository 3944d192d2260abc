from scripts.measure.simulation.figures import convergence, curves, summary, table


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


def test_the_table_compares_with_drawing_by_hand_and_with_per_image_interactive():
    ways = {"hand": summary(LOG[2:], []), "interactive": summary(LOG, []), "full": summary(LOG[:2], UNSEEN)}
    text = table(ways)
    row = next(line for line in text.splitlines() if line.startswith("| full loop | 85%"))
    assert "| -71 % | -78 % |" in row
    assert "4 of 4" not in row
    assert "3 of 4" in row


def test_convergence_tells_what_began_with_a_mask_from_what_began_with_nothing():
    rows = convergence({"hand": [entry("a", 0.0, [], {"0.85": 6, "0.9": 9})], "random": LOG}).splitlines()
    begun = {row.split(" | ")[1]: row.split(" | ")[2:] for row in rows[2:]}
    assert list(begun) == ["a mask", "nothing"]  # drawing by hand has no clicks that converge
    assert begun["nothing"][:4] == ["1", "0.0", "50.0", "91.0"]
    assert begun["a mask"][:3] == ["2", "49.0", "55.0"]
    assert [cell.rstrip(" |") for cell in begun["nothing"][-3:]] == ["2 (1)", "2 (1)", "3 (1)"]
    assert begun["a mask"][-1].startswith("> 1 (1)")  # of two, one reached it: the median structure did not


def test_the_curve_is_a_picture():
    assert curves({"interactive": LOG, "full": LOG[:2]}, {"full": 2}).startswith(b"\x89PNG")
