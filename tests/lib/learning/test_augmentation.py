"""Augmentation keeps image and mask together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lib.learning.augmentation import MILD, STRONG, Strength, augment


@pytest.mark.parametrize("strength", [MILD, STRONG])
@pytest.mark.parametrize("seed", range(4))
def test_the_mask_moves_with_its_structure(strength, seed, monkeypatch):
    monkeypatch.setattr(
        "lib.learning.augmentation._task_curve", lambda _: None
    )  # it may give two grey values the same look
    rows, columns = np.ogrid[:80, :80]
    mask = (rows - 35) ** 2 + (columns - 45) ** 2 < 12**2
    images, masks = augment(np.stack([mask] * 3) * 1.0, np.stack([mask] * 3), np.random.default_rng(seed), 64, strength)
    assert images.shape == masks.shape == (3, 64, 64)
    for image, moved in zip(images, masks, strict=True):
        assert moved.any()
        contrast = abs(image[moved].mean() - image[~moved].mean())
        assert contrast > 3 * max(image[moved].std(), 0.05)


def test_the_same_generator_state_gives_the_same_copies():
    image = np.random.default_rng(1).random((1, 64, 64))
    first, second = (augment(image, image > 0.9, np.random.default_rng(5), 32) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_without_a_new_task_samples_keep_their_pose_and_contrast_but_for_their_own_changes():
    image = np.zeros((1, 64, 64))
    image[:, 8:20, 10:50] = 1  # a bar at one side: a flip or a turn would show
    for seed in range(12):
        images, masks = augment(image, image > 0, np.random.default_rng(seed), 64, new_task=False)
        centre = np.argwhere(masks[0]).mean(axis=0)
        assert np.abs(centre - (13.5, 29.5)).max() < 14
        assert images[0][masks[0]].mean() > images[0][~masks[0]].mean()


def test_a_new_task_has_at_times_another_look_the_same_in_all_its_samples():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (2, 64, 1))
    still = Strength(angle=0, scale=0, shift=0, elastic=0, contrast=0)
    looks = set()
    for seed in range(40):
        images, _ = augment(ramp, ramp > 0.5, np.random.default_rng(seed), 32, still)
        ordered = np.sort(images.reshape(2, -1), axis=1)
        assert np.abs(ordered[0] - ordered[1]).mean() < 0.15  # the curve is shared; blur and bias are a sample's own
        looks.add(len(np.unique(images[0].round(1))))
    assert len(looks) > 2


def test_a_new_task_is_at_times_about_the_rim_of_its_structure():
    disc = np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 25
    hollow = 0
    for seed in range(120):
        _, masks = augment(np.stack([disc] * 2) * 1.0, np.stack([disc] * 2), np.random.default_rng(seed), 64)
        filled = [ndimage.binary_fill_holes(mask).sum() > mask.sum() for mask in masks]
        assert filled[0] == filled[1]
        hollow += filled[0]
    assert 1 <= hollow <= 30
