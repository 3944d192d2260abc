"""Two people on one study are told of each other."""

from infers.annotate import presence
from infers.annotate.presence import Presence


def names(others):
    return [other["name"] for other in others]


def test_two_pages_on_one_study_hear_of_each_other():
    there = Presence()
    assert there.enter("s1", "a", "Anna") == []
    assert names(there.enter("s1", "b", "Ben")) == ["Anna"]
    assert names(there.enter("s1", "a", "Anna")) == ["Ben"]
    assert there.enter("s2", "c", "Carl") == []


def test_who_left_or_fell_silent_is_not_there():
    now = [0.0]
    there = Presence(lambda: now[0])
    there.enter("s1", "a", "Anna")
    there.enter("s1", "b", "Ben")
    there.leave("s1", "b")
    now[0] = presence.SILENT - 1
    assert names(there.enter("s1", "c", "Carl")) == ["Anna"]
    now[0] = 2 * presence.SILENT
    assert there.enter("s1", "d", "Dora") == []


def test_pages_that_nobody_has_take_no_memory():
    there = Presence()
    for number in range(3 * presence.MOST):
        there.enter(f"s{number}", str(number), "x" * 64)
    assert len(there._visitors) == presence.MOST
