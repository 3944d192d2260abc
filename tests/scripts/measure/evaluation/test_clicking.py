"""The simulated clicker: where it clicks, when it stops and what it counts."""

from __future__ import annotations

import numpy as np

from scripts.measure.evaluation.clicking import click_through, next_click
from tests.scripts.measure.evaluation.samples import case, volume_case


class Growing:
    """Finds a bit more of the truth with each click, whatever was clicked."""

    name, fingerprint = "growing", "1"

    def __init__(self, cases, rows: int) -> None:
        self.truths = {one: one.mask(1) for one in cases}
        self.rows, self.prompts = rows, []

    def masks(self, cases, prompts):
        self.prompts.append(prompts)
        found = []
        for one, prompt in zip(cases, prompts, strict=True):
            mask = self.truths[one].copy()
            first = np.flatnonzero(mask.any(axis=1))[0]
            mask[first + self.rows * (len(prompt.foreground) + len(prompt.background)) :] = False
            found.append(mask)
        return found


def test_clicks_are_counted_to_each_target_and_the_scores_are_those_after_so_many_clicks():
    cases = [case(0), case(1)]  # squares of 12 rows
    (one, other) = click_through(Growing(cases, rows=2), cases, 1, most=20)
    # after n clicks 2n of 12 rows: Dice 29, 50, 67, 80, 91, 100
    assert [round(dice) for dice in one.dices] == [29, 50, 67, 80, 91]
    assert [one.clicks_to(target, 20) for target in (50, 80, 85, 90)] == [2, 4, 5, 5]
    assert round(one.score_after(3).dice) == 67
    assert other.dices == one.dices


def test_the_clicker_gives_up_and_says_so():
    cases = [case(0)]
    (one,) = click_through(Growing(cases, rows=1), cases, 1, most=3)
    assert len(one.dices) == 3
    assert one.clicks_to(90, 3) == 3
    assert max(one.dices) < 90


def test_nothing_is_clicked_once_no_error_is_left():
    cases = [case(0)]
    (one,) = click_through(Growing(cases, rows=12), cases, 1, most=20)
    assert one.dices == [100]
    assert one.score_after(5).dice == 100


def test_clicks_add_up_and_the_last_answer_is_handed_back():
    cases = [case(0)]
    method = Growing(cases, rows=4)
    click_through(method, cases, 1, most=20)
    (first,), (second,), *_ = method.prompts
    assert first.previous is None
    assert len(first.foreground) == 1
    assert cases[0].mask(1)[first.foreground[0]]
    assert len(second.foreground) == 2
    assert second.previous.sum() == 4 * 9


def test_the_next_click_in_a_volume_is_on_the_slice_with_most_errors():
    one = volume_case(0)
    mask = one.mask(1).copy()
    mask[:, :, 2] = False
    mask[3, 4, 3] = False
    point, inside = next_click(mask, one.mask(1), axis=2)
    assert inside
    assert point[2] == 2
    assert one.mask(1)[point]
    mask = one.mask(1).copy()
    mask[9:12, :, 4] = True
    point, inside = next_click(mask, one.mask(1), axis=0)
    assert not inside
    assert point[0] in (9, 10, 11)
    assert point[2] == 4
