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
