"""Prompts: what they refuse, how they are cut into slices, and what the network is shown."""

from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.prompts import BBOX, CLICK, DOODLE, PREVIOUS, SEGLAB, Prompt, PromptError, PromptType, rasterise

SHAPE = (40, 60)


def mask() -> np.ndarray:
    array = np.zeros(SHAPE, bool)
    array[10:20, 30:45] = True
    return array


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"box": (20, 10, 0, 5)}, "first below second"),
        ({"box": (0, 5, 0)}, "half-open"),
        ({"foreground": [(1.5, 2)]}, "whole voxel"),
        ({"foreground": [(1, 2), (1, 2, 3)]}, "all"),
        ({"foreground": [(1,)]}, "voxel indices"),
        ({"foreground": [(1, 2)], "box": (0, 1, 0, 1, 0, 1)}, "2-D or all 3-D"),
        ({"mask": np.zeros((3, 4)), "doodle": np.zeros((4, 3))}, "shape"),
    ],
)
def test_a_prompt_that_contradicts_itself_is_refused(wrong, said):
    with pytest.raises(PromptError, match=said):
        Prompt(**wrong)


@pytest.mark.parametrize(
    "outside",
    [
        Prompt(foreground=[(40, 0)]),
        Prompt(background=[(0, -1)]),
        Prompt(box=(0, 41, 0, 5)),
        Prompt(mask=np.zeros((40, 61), bool)),
        Prompt(foreground=[(1, 2, 3)]),
    ],
)
def test_a_prompt_outside_its_image_names_what_is_allowed(outside):
    with pytest.raises(PromptError, match=r"39|40|2-D"):
        outside.validate(SHAPE)


def test_the_types_of_a_prompt_are_those_of_the_paper():
    prompt = Prompt(foreground=[(1, 2)], box=(0, 5, 0, 5), doodle=mask(), mask=mask())
    assert prompt.types == set(PromptType)
    assert Prompt(previous=mask()).types == frozenset()
    assert Prompt().is_empty
    assert not Prompt(previous=mask()).is_empty


def test_a_slice_of_a_volume_prompt_keeps_what_was_said_on_it():
    doodle = np.zeros((8, 9, 10), bool)
    doodle[2, 3, 4] = True
    prompt = Prompt(foreground=[(1, 2, 4), (5, 6, 7)], box=(0, 4, 1, 5, 4, 6), doodle=doodle)
    flat = prompt.on_slice(2, 4)
    assert flat.foreground == ((1, 2),)
    assert flat.box == (0, 4, 1, 5)
    assert flat.doodle is not None
    assert flat.doodle[2, 3]
    assert prompt.on_slice(2, 7).box is None
    assert prompt.on_slice(2, 7).doodle is None
    assert prompt.on_slice(2, 9).is_empty
    assert prompt.slices(2) == [4, 5, 7]
    assert prompt.slices(0) == [0, 1, 2, 3, 5]


def test_nothing_said_is_all_zeros_and_an_empty_mask_is_not():
    assert not rasterise(Prompt(), SHAPE, 64).any()
    empty = rasterise(Prompt(mask=np.zeros(SHAPE, bool)), SHAPE, 64)
    assert not empty[0].any()
    assert (empty[1, SEGLAB] == 1).all()


@pytest.mark.parametrize("point", [(0, 0), (39, 59), (12, 44)])
def test_a_click_peaks_where_it_was_made(point):
    maps = rasterise(Prompt(foreground=[point]), SHAPE, 128)
    peak = np.unravel_index(maps[0, CLICK].argmax(), (128, 128))
    assert all(abs((p + 0.5) * n / 128 - (q + 0.5)) <= 0.5 for p, q, n in zip(peak, point, SHAPE, strict=True))
    assert not maps[1].any()


def test_background_clicks_and_doodles_go_to_the_second_slot():
    maps = rasterise(Prompt(background=[(3, 4)], background_doodle=mask()), SHAPE, 64)
    assert maps[1, CLICK].max() > 0.5
    assert maps[1, DOODLE].any()
    assert not maps[0].any()


def test_the_two_corner_maps_of_a_box_overlap_in_the_box():
    maps = rasterise(Prompt(box=(10, 20, 30, 45)), SHAPE, 120)
    both = maps[0, BBOX] * maps[1, BBOX]
    rows, columns = np.nonzero(both)
    assert (rows.min(), rows.max() + 1) == (30, 60)
    assert (columns.min(), columns.max() + 1) == (60, 90)


def test_a_mask_and_a_previous_answer_keep_their_area():
    maps = rasterise(Prompt(mask=mask(), previous=mask() * 0.5), SHAPE, 128)
    share = mask().mean()
    assert maps[0, SEGLAB].mean() == pytest.approx(share, rel=0.02)
    assert maps[0, PREVIOUS].mean() == pytest.approx(share / 2, rel=0.02)
    np.testing.assert_allclose(maps[0, SEGLAB] + maps[1, SEGLAB], 1, atol=1e-5)


def test_a_stroke_one_voxel_wide_survives_shrinking():
    strokes = np.zeros((512, 512), bool)
    strokes[100, 50:300] = True
    assert rasterise(Prompt(doodle=strokes), (512, 512), 128)[0, DOODLE].max() > 0.3


def test_replace_refuses_a_field_that_does_not_exist():
    with pytest.raises(TypeError, match="clicks"):
        Prompt().replace(clicks=())
