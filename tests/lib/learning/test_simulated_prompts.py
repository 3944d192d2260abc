"""The simulated annotator says what a person looking at the mask could say."""

from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.prompts import PromptType
from lib.learning.simulated_prompts import (
    corrective_click,
    deepest_point,
    jittered_box,
    lengthwise_stroke,
    loose_box,
    practice_prompt,
    scribble,
    simulate_prompt,
    tight_box,
)


def mask() -> np.ndarray:
    array = np.zeros((48, 64), bool)
    array[10:30, 20:28] = True
    array[40, 60] = True
    return array


@pytest.mark.parametrize("seed", range(5))
def test_clicks_lie_inside_and_outside_as_they_say(seed):
    prompt = simulate_prompt(mask(), PromptType.CLICK, np.random.default_rng(seed))
    assert 1 <= len(prompt.foreground) <= 3
    assert all(mask()[point] for point in prompt.foreground)
    assert not any(mask()[point] for point in prompt.background)


@pytest.mark.parametrize("seed", range(5))
def test_doodles_stay_on_their_side(seed):
    prompt = simulate_prompt(mask(), PromptType.DOODLE, np.random.default_rng(seed))
    assert prompt.doodle is not None
    assert prompt.doodle.any()
    assert not (prompt.doodle & ~mask()).any()
    assert prompt.background_doodle is None or not (prompt.background_doodle & mask()).any()


def test_boxes_fit_the_image_and_stay_near_the_structure():
    rng = np.random.default_rng(0)
    for _ in range(20):
        i0, i1, j0, j1 = jittered_box(mask(), rng)
        assert 0 <= i0 < i1 <= 48
        assert 0 <= j0 < j1 <= 64
        np.testing.assert_allclose((i0, i1, j0, j1), tight_box(mask()), atol=14)


def test_a_loose_box_contains_the_structure():
    rng = np.random.default_rng(0)
    tight = tight_box(mask())
    for _ in range(20):
        i0, i1, j0, j1 = loose_box(mask(), rng)
        assert 0 <= i0 <= tight[0] < tight[1] <= i1 <= 48
        assert 0 <= j0 <= tight[2] < tight[3] <= j1 <= 64


def test_a_stroke_along_a_structure_reaches_most_of_its_length_and_stays_inside():
    bent = np.zeros((48, 48), bool)
    bent[4:40, 4:9], bent[35:40, 4:44] = True, True
    for seed in range(5):
        stroke = lengthwise_stroke(bent, np.random.default_rng(seed))
        assert not (stroke & ~bent).any()
        assert stroke[10:30].any(axis=1).all()
        assert stroke[:, 12:34].any(axis=0).all()


def test_prompts_to_practise_are_of_their_kind_and_half_of_the_boxes_are_tight():
    rng, boxes = np.random.default_rng(0), []
    for kind in PromptType:
        for _ in range(40):
            prompt = practice_prompt(mask(), kind, rng)
            prompt.validate(mask().shape)
            assert kind in prompt.types
            boxes += [prompt.box] if kind is PromptType.BBOX else []
    assert 12 <= sum(box == tight_box(mask()) for box in boxes) <= 28


def test_a_mask_of_one_pixel_can_be_prompted_in_every_way():
    single = np.zeros((16, 16), bool)
    single[3, 4] = True
    for kind in PromptType:
        for simulate in (simulate_prompt, practice_prompt):
            prompt = simulate(single, kind, np.random.default_rng(0))
            prompt.validate(single.shape)
            assert kind in prompt.types
    assert scribble(single, np.random.default_rng(0)).sum() == 1


@pytest.mark.parametrize("kind", [PromptType.CLICK, PromptType.BBOX, PromptType.DOODLE])
def test_an_empty_mask_can_only_be_given_as_a_mask(kind):
    with pytest.raises(ValueError, match="seglab"):
        simulate_prompt(np.zeros((8, 8), bool), kind, np.random.default_rng(0))


def test_the_corrective_click_falls_in_the_middle_of_the_largest_error():
    truth, missed, extra = mask(), mask(), mask()
    missed[10:30, 20:28] = False
    assert corrective_click(missed, truth) == (deepest_point(truth), True)
    extra[0:40, 40:60] = True
    point, is_foreground = corrective_click(extra, truth)
    assert not is_foreground
    np.testing.assert_allclose(point, (20, 50), atol=11)
    assert corrective_click(truth, truth) is None
