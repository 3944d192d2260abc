"""Corrections that carry through a volume; what they do to answers is in test_slice_segmenter.py."""

from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.prompts import Prompt
from lib.inference.carrying import CUT, carried_slices, carry, disagreeing, paint_carried, signed_distance

SIDES = (1.0, 1.0, 1.0)
SHAPE = (40, 36, 30)


def ellipsoid(centre, radii):
    """A phantom's organ, bool of `SHAPE`."""
    grid = np.indices(SHAPE)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) <= 1


TRUTH = ellipsoid((20, 18, 15), (11, 8, 10))
SMALL = ellipsoid((17, 18, 15), (7, 7, 10))  # short on one side, on every slice
LARGE = ellipsoid((24, 18, 15), (13, 9, 11))


def applied(mask, foreground=(), background=(), sides=SIDES):
    window, part = carry(mask, foreground, background, sides)
    changed = mask.copy()
    changed[window] = part
    return changed


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_foreground_click_adds_on_the_neighbours_what_is_missing_there_too(axis):
    missed, mask = np.moveaxis(TRUTH, 2, axis), np.moveaxis(SMALL, 2, axis)
    point = tuple(np.insert((27, 18), axis, 15).tolist())
    slices = carried_slices(Prompt(foreground=(point,), previous=mask), axis, SIDES)
    for index in (13, 14, 16, 17):
        before, truth = (np.take(volume, index, axis) for volume in (mask, missed))
        assert slices[index][before].all(), "a foreground click takes nothing away"
        assert dice(slices[index], truth) > dice(before, truth)


def test_a_background_click_removes_on_the_neighbours_what_is_too_much_there_too():
    slices = carried_slices(Prompt(background=((34, 18, 15),), previous=LARGE), 2, SIDES)
    for index in (13, 14, 15, 16, 17):
        assert not slices[index][~LARGE[..., index]].any(), "a background click adds nothing"
        assert dice(slices[index], TRUTH[..., index]) > dice(LARGE[..., index], TRUTH[..., index])


def test_every_click_is_taken_up_and_those_the_mask_agrees_with_are_kept():
    agreed = (26, 18, 19)
    first = applied(SMALL, [(27, 18, 15)])
    assert first[27, 18, 15]
    second = applied(first, [(27, 18, 15)], [(first[:, 18, 19].nonzero()[0].max(), 18, 19), (38, 18, 19)])
    assert second[27, 18, 15]
    assert not second[38, 18, 19]
    beside = applied(TRUTH, [agreed], [(28, 18, 19)])
    assert beside[agreed]
    assert not beside[28, 18, 19]


def test_a_narrow_error_stays_where_it_is_and_a_wide_one_carries_far():
    def reach(point):
        return (applied(SMALL, [point]) != SMALL).any(axis=(0, 1)).sum()

    assert 1 <= reach((25, 18, 15)) < reach((28, 18, 15)) < reach((31, 18, 15))


def test_slices_far_apart_in_space_get_less_of_a_correction():
    thin, thick = (applied(SMALL, [(27, 18, 15)], sides=(1, 1, side)) for side in (1, 5))
    assert (thin[..., 15] == thick[..., 15]).mean() > 0.95
    assert (thin != SMALL).any(axis=(0, 1)).sum() > (thick != SMALL).any(axis=(0, 1)).sum()


def test_sides_in_other_units_change_nothing():
    masks = [applied(SMALL, [(27, 18, 15)], sides=[unit * side for side in (1, 1, 2)]) for unit in (1, 1e-6, 1e3)]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_a_window_holds_all_that_would_change():
    mask, wide = SMALL, np.pad(SMALL, 30)
    part = applied(wide, [(57, 48, 45)])[30:-30, 30:-30, 30:-30]
    np.testing.assert_array_equal(part, applied(mask, [(27, 18, 15)]))
    window, _ = carry(wide, [(57, 48, 45)], [], SIDES)
    assert all(side.stop - side.start < CUT * 20 for side in window)


def test_a_click_far_away_adds_a_part_and_does_not_fill_the_way_to_it():
    mask = ellipsoid((8, 8, 6), (4, 4, 4))
    changed = applied(mask, [(34, 30, 26)])
    assert changed[34, 30, 26]
    assert not changed[21, 19, 16]


def test_what_a_background_click_cuts_off_from_a_clicked_part_goes_and_parts_of_their_own_stay():
    mask = ellipsoid((12, 12, 8), (5, 5, 5)) | ellipsoid((28, 12, 8), (5, 5, 5)) | ellipsoid((30, 30, 25), (3, 3, 3))
    mask[12:29, 11:14, 7:10] = True  # a bridge
    bridge = [(x, 12, 8) for x in (19, 21)]
    changed = applied(mask, [(12, 12, 8)], bridge)
    assert changed[12, 12, 8]
    assert not changed[28, 12, 8]
    assert changed[30, 30, 25]
    unclicked = applied(mask, [], bridge)
    assert unclicked[28, 12, 8]


@pytest.mark.parametrize("mask", [np.zeros(SHAPE, bool), np.ones(SHAPE, bool)])
def test_a_mask_without_a_border_carries_nothing(mask):
    assert carry(mask, [(5, 5, 5)], [(6, 6, 6)], SIDES) is None


def test_a_mask_that_agrees_with_every_click_stays():
    assert carry(TRUTH, [(20, 18, 15)], [(1, 1, 1)], SIDES) is None
    assert disagreeing(Prompt(foreground=((20, 18, 15),), background=((1, 1, 1),), previous=TRUTH), 2) == []


def test_strokes_count_where_the_mask_disagrees():
    stroke = np.zeros(SHAPE, bool)
    stroke[18:30, 18, 15] = True
    prompt = Prompt(doodle=stroke, previous=SMALL)
    assert disagreeing(prompt, 2) == [15]
    slices = carried_slices(prompt, 2, SIDES)
    assert slices[15][18:30, 18].all()
    assert dice(slices[16], TRUTH[..., 16]) > dice(SMALL[..., 16], TRUTH[..., 16])


def test_painted_slices_are_never_carried_to_and_the_mask_before_is_not_written_to():
    painted = np.zeros(SHAPE, bool)
    painted[15:20, 15:20, 16] = True
    before = SMALL.copy()
    slices = carried_slices(Prompt(foreground=((27, 18, 15),), mask=painted, previous=before), 2, SIDES)
    assert 16 not in slices
    assert {14, 15, 17} <= set(slices)
    np.testing.assert_array_equal(before, SMALL)


def painting(before, axis, *indices, of=TRUTH):
    """A prompt on which slices were painted as they are in truth."""
    mask, confirmed = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for index in indices:
        place = (slice(None),) * axis + (index,)
        mask[place], confirmed[place] = of[place], True
    return Prompt(mask=mask, confirmed=confirmed, previous=before)


@pytest.mark.parametrize(("before", "axis"), [(SMALL, 2), (LARGE, 2), (SMALL, 1), (LARGE, 1)])
def test_what_a_painted_slice_changed_is_carried_to_its_neighbours_and_fades(before, axis):
    middle = SHAPE[axis] // 2
    after = paint_carried(painting(before, axis, middle), axis, SIDES)
    scores = []
    for index in (middle, middle + 1, middle - 2, middle + 4):
        old, new, truth = (np.take(volume, index, axis) for volume in (before, after, TRUTH))
        scores.append(dice(new, truth) - dice(old, truth))
    assert scores[0] == 1 - dice(*(np.take(volume, middle, axis) for volume in (before, TRUTH)))
    assert all(score > 0 for score in scores)
    far = [slice(None)] * 3
    far[axis] = slice(middle + 8, None)
    np.testing.assert_array_equal(after[tuple(far)], before[tuple(far)])


def test_the_next_slices_get_some_however_thick_slices_are():
    after = paint_carried(painting(SMALL, 2, 15), 2, (1, 1, 9))
    changed = np.flatnonzero((after != SMALL).any(axis=(0, 1))).tolist()
    assert changed == [14, 15, 16]


def test_slices_between_painted_ones_get_what_both_say():
    after = paint_carried(painting(SMALL, 2, 9, 15, 21), 2, SIDES)
    for index in range(9, 22):
        assert dice(after[..., index], TRUTH[..., index]) > 0.9 > dice(SMALL[..., index], TRUTH[..., index])


def test_slices_that_were_painted_before_say_that_nothing_is_wrong():
    once = paint_carried(painting(SMALL, 2, 9, 15), 2, SIDES)
    again = paint_carried(painting(SMALL, 2, 9, 15).replace(previous=once), 2, SIDES)
    np.testing.assert_array_equal(again, once)
    further = paint_carried(painting(once, 2, 9, 15, 21), 2, SIDES)
    np.testing.assert_array_equal(further[..., :16], once[..., :16])


def test_a_slice_that_was_emptied_takes_from_its_neighbours():
    nothing = np.zeros(SHAPE, bool)
    after = paint_carried(painting(LARGE, 2, 24, of=nothing), 2, SIDES)
    assert not after[..., 24].any()
    assert after[..., 25:].sum() < LARGE[..., 25:].sum()
    assert (after[..., 23] <= LARGE[..., 23]).all()


def test_a_slice_that_was_painted_on_an_empty_one_carries_to_empty_neighbours():
    after = paint_carried(painting(np.zeros(SHAPE, bool) | (SMALL & (np.arange(30) < 12)), 2, 15), 2, SIDES)
    assert after[..., 14].any()
    assert after[..., 16].any()
    assert (after[..., 16] <= TRUTH[..., 15]).all()


def test_clicks_on_a_slice_that_stands_carry_nothing():
    prompt = painting(SMALL, 2, 15).replace(background=((20, 18, 15),), previous=TRUTH)
    assert carried_slices(prompt, 2, SIDES) == {}


def test_signed_distance_is_positive_inside_and_counts_from_the_border():
    mask = np.zeros((5, 7, 5), bool)
    mask[1:4, 1:6, 1:4] = True
    distance = signed_distance(mask, np.ones(3))
    assert distance[2, 3, 2] == 1.5
    assert distance[2, 6, 2] == -0.5
    assert (signed_distance(np.ones((2, 2, 2), bool), np.ones(3)) > 2).all()
