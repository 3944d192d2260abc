"""Baselines that segment by clicks."""

from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.metrics import dice
from lib.imaging.prompts import Prompt
from scripts.measure.evaluation.baselines.random_walker import RandomWalker
from scripts.measure.evaluation.baselines.scribbles import Scribbles
from scripts.measure.evaluation.baselines.seeds import BACKGROUND, FOREGROUND, dabs
from tests.scripts.measure.evaluation.samples import case, volume_case


@pytest.mark.parametrize("method", [RandomWalker(), Scribbles()])
def test_clicks_inside_and_outside_separate_a_bright_square(method):
    query = case(0, (150, 120))
    i, j = np.argwhere(query.mask(1)).mean(axis=0).astype(int)
    prompt = Prompt(foreground=((i, j), (i + 3, j + 2)), background=((100, 60), (147, 60), (30, 90)))
    (mask,) = method.masks([query], [prompt])
    assert mask.dtype == bool
    assert dice(mask, query.mask(1)) > 0.6


@pytest.mark.parametrize("method", [RandomWalker(), Scribbles()])
def test_one_click_in_a_volume_gives_a_mask_that_holds_it(method):
    query = volume_case(0)
    (mask,) = method.masks([query], [Prompt(foreground=((5, 8, 3),))])
    assert mask.shape == query.image.array.shape
    assert mask[5, 8, 3]


def test_dabs_lie_where_the_clicks_are_whatever_the_grid():
    seeds = dabs(Prompt(foreground=((150, 100),), background=((40, 60),)), (200, 200), (100, 100))
    assert seeds[75, 50] == FOREGROUND
    assert seeds[20, 30] == BACKGROUND
    assert (seeds[0] == BACKGROUND).all()
    assert 1 < (seeds == FOREGROUND).sum() < 20


def test_a_click_keeps_its_kind_beside_a_click_of_the_other_kind():
    seeds = dabs(Prompt(foreground=((50, 50),), background=((50, 51), (0, 40))), (100, 100), (100, 100))
    assert seeds[50, 50] == FOREGROUND
    assert seeds[50, 51] == BACKGROUND
    assert dabs(Prompt(foreground=((0, 0),)), (9, 9), (9, 9))[0, 0] == FOREGROUND
