"""Dice and surface distance of masks whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.metrics import batch_dice, label_map_dice, score


def block(low: int, high: int, shape=(20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[low:high, 5:15] = True
    return mask


def test_the_truth_itself_scores_full():
    found = score(block(4, 9), block(4, 9), (1.0, 1.0))
    assert (found.dice, found.surface) == (100, 0)


def test_half_of_the_overlap_is_half_of_the_dice():
    assert score(block(0, 10), block(5, 15), (1, 1)).dice == pytest.approx(50)


def test_surface_distance_is_in_mm_of_the_image():
    lines = [np.zeros((20, 20), bool) for _ in range(2)]
    lines[0][5], lines[1][8] = True, True
    found = score(*lines, (2.0, 1.0))
    assert found.surface == pytest.approx(6)
    assert found.surface_percent == pytest.approx(100 * 6 / np.hypot(40, 20))


def test_an_empty_answer_is_as_wrong_as_the_image_is_large():
    found = score(np.zeros((20, 20), bool), block(4, 9), (3.0, 4.0))
    assert (found.dice, found.surface, found.surface_percent) == (0, 100, 100)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        score(block(4, 9), block(4, 9)[1:], (1, 1))
    with pytest.raises(ValueError, match="empty"):
        score(block(4, 9), np.zeros((20, 20), bool), (1, 1))


def test_the_dice_of_label_maps_is_of_known_structures_alone():
    truth = np.array([[0, 1], [2, 2]])
    half = np.array([[0, 1], [0, 0]])
    assert label_map_dice(truth, truth) == label_map_dice(truth, truth, np.array([True, True])) == 1
    assert label_map_dice(half, truth) == label_map_dice(half, truth, np.array([True, True])) == 0.5
    assert label_map_dice(half, truth, np.array([True, False])) == 1
    assert label_map_dice(half, truth, np.array([False, False])) == 1


def test_the_dice_of_a_batch_is_that_of_each_pair():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    left = full.clone()
    left[..., 2:] = False
    ones, others = torch.stack([empty, empty, full, left]), torch.stack([empty, full, full, full])
    np.testing.assert_allclose(batch_dice(ones, others), [1, 0, 1, 2 / 3])
