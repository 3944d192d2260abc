"""What is promised of clicks, and the phantom that is clicked."""

from __future__ import annotations

import os

from scripts.measure.speed.clicks import MOST, ORGANS, STOCK, most_memory, phantom, targets
from scripts.measure.speed.costs import Cost


def cost(core: float) -> Cost:
    return Cost(core, core, core, core, 1)


def test_only_ct_of_the_sizes_that_were_promised_have_targets():
    measured = {"slice click": cost(MOST[78]["slice click"]), "new place": cost(99), "first click": cost(1)}
    kept = {one.name: one.met for one in targets((512, 512, 78), measured, 1.0)}
    assert kept == {"512x512x78: slice click": True, "512x512x78: new place": False}
    assert targets((256, 256, 78), measured, 1.0) == []
    assert [one.met for one in targets((512, 512, 1000), {}, 3.9)] == [True]
    assert [one.met for one in targets((512, 512, 1000), {}, 4.1)] == [False]


def test_clicks_are_compared_with_those_of_monai_label_where_both_were_measured():
    names = [one.name for one in targets((512, 512, 78), {"new place": cost(2), STOCK: cost(8)}, 1.0)]
    assert f"512x512x78: {STOCK} / new place" in names
    ratio = targets((512, 512, 78), {"new place": cost(2), STOCK: cost(8)}, 1.0)[-1]
    assert (ratio.value, ratio.met) == (4, True)


def test_the_phantom_is_the_same_every_time_and_shows_what_is_clicked():
    image, label = phantom((64, 48, 6))
    grey = image.get_fdata()
    assert (grey == phantom((64, 48, 6))[0].get_fdata()).all()
    assert 60 < grey[round(0.35 * 64), round(0.45 * 48), 3] < 160
    assert label[round(0.35 * 64), round(0.45 * 48), 3] == 1 + list(ORGANS).index("liver")
    assert label[round(0.66 * 64), round(0.58 * 48), 3] == 1 + list(ORGANS).index("kidney")
    other = phantom((64, 48, 6), seed=1)[1]
    assert set(other.ravel()) == set(label.ravel()) == set(range(len(ORGANS) + 1))
    assert (other != label).any()


def test_the_memory_of_a_process_is_the_most_that_it_held():
    assert 0.01 < most_memory(os.getpid()) < 1000
