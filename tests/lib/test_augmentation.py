"""Augmentation keeps image and mask together."""

from __future__ import annotations

import numpy as np
import pytest

from lib.augmentation import MILD, STRONG, augment


@pytest.mark.parametrize("strength", [MILD, STRONG])
@pytest.mark.parametrize("seed", range(4))
def test_the_mask_moves_with_its_structure(strength, seed):
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
