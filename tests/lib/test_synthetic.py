"""Synthetic tasks: repeatable, varied, and the same structure in every subject."""

from __future__ import annotations

import numpy as np
import pytest

from lib.synthetic import FAMILIES, synthetic_task


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
