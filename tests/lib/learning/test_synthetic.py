"""Synthetic tasks: repeatable, mmr_selection, and the same structure in every subject."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lib.learning.synthetic import FAMILIES, foreign_bodies, synthetic_task


def test_the_same_generator_state_gives_the_same_task():
    first, second = (synthetic_task(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_every_family_is_drawn_and_gives_finite_images_with_structures():
    tasks = [synthetic_task(np.random.default_rng(seed), size=64) for seed in range(60)]
    assert {task.family for task in tasks} == set(FAMILIES)
    for task in tasks:
        assert task.images.shape == task.labels.shape == (4, 64, 64)
        assert np.isfinite(task.images).all()
        assert task.images.std() > 0
    assert np.mean([task.labels.any() for task in tasks]) > 0.95


@pytest.mark.parametrize("family", ["partition", "organs"])
def test_subjects_of_one_anatomy_differ_but_share_their_structures(family):
    labels = FAMILIES[family](np.random.default_rng(3), 96, 4)
    first = set(np.unique(labels[0]))
    assert all(len(first & set(np.unique(other))) >= len(first) / 2 for other in labels[1:])
    assert all((labels[0] != other).mean() > 0.01 for other in labels[1:])


def test_foreign_bodies_lie_in_real_images_and_leave_the_rest_of_them_alone():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 96, 96)).astype(np.float32)
    for seed in range(20):
        task = foreign_bodies(images, images, np.random.default_rng(seed))
        assert task.images.shape == task.labels.shape == images.shape
        for before, after, labels in zip(images, task.images, task.labels, strict=True):
            far = ndimage.distance_transform_edt(labels == 0) > 8
            np.testing.assert_allclose(after[far], before[far], atol=1e-3)
            if labels.any():
                assert np.abs(after - before)[labels > 0].max() > 0.05


def test_structures_take_the_grain_of_real_images_where_there_are_some():
    stripes = np.tile(np.arange(64) % 4 < 2, (2, 64, 1)).astype(np.float32)
    plain = [synthetic_task(np.random.default_rng(seed), 64) for seed in range(8)]
    grained = [synthetic_task(np.random.default_rng(seed), 64, grains=[stripes]) for seed in range(8)]
    assert [task.family for task in plain] == [task.family for task in grained]
    same = [np.array_equal(one.images, other.images) for one, other in zip(plain, grained, strict=True)]
    assert not any(same)
    assert all(np.isfinite(task.images).all() for task in grained)
