"""Grey values and grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.transforms import normalise, resize_image, resize_logits, resize_mask


def test_normalised_values_have_zero_mean_and_unit_variance_whatever_the_type():
    values = np.arange(4096, dtype=np.int16).reshape(64, 64)
    for array in (values, values.astype(np.uint16), values.astype(np.float64) * 1e-3):
        answer = normalise(array)
        assert answer.dtype == np.float32
        assert abs(answer.mean()) < 1e-4
        assert answer.std() == pytest.approx(1, abs=1e-3)


def test_a_single_dead_pixel_does_not_change_the_contrast_of_the_rest():
    values = np.random.default_rng(0).normal(size=(64, 64))
    spoilt = values.copy()
    spoilt[0, 0] = 1e6
    np.testing.assert_allclose(normalise(spoilt)[1:], normalise(values)[1:], atol=0.02)


def test_a_small_bright_target_on_an_empty_field_keeps_its_contrast():
    field = np.zeros((100, 100))
    field[5, 5] = 1
    assert normalise(field).max() > 1


def test_a_constant_image_becomes_zeros():
    assert not normalise(np.full((8, 8), 7)).any()


@pytest.mark.parametrize("shape", [(40, 60), (300, 200), (128, 17)])
def test_a_mask_survives_the_way_to_the_network_and_back_without_a_shift(shape):
    mask = np.zeros(shape, bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = True
    logits = torch.from_numpy(resize_mask(mask, 128) - 0.5)[None, None]
    back = resize_logits(logits, shape)[0, 0].numpy() > 0
    centre = [np.mean(np.nonzero(m), axis=1) for m in (mask, back)]
    np.testing.assert_allclose(*centre, atol=0.5)
    assert 2 * (mask & back).sum() / (mask.sum() + back.sum()) > 0.85


def test_resizing_to_the_same_size_changes_nothing():
    image = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    np.testing.assert_array_equal(resize_image(image, 128), image)
