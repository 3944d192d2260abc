import numpy as np
import pytest

from scripts.measure.scores import by_name, copy_resized, dice_by_label, mean_dice


def square(shape, rows, columns, value=1):
    label = np.zeros(shape, np.uint8)
    label[rows[0] : rows[1], columns[0] : columns[1]] = value
    return label


def test_dice_of_half_overlapping_squares_is_one_half():
    truth, mask = square((8, 8), (0, 4), (0, 4)), square((8, 8), (2, 6), (0, 4))
    assert dice_by_label(mask, truth, 1) == [0.5]


def test_a_structure_in_neither_does_not_count_and_a_false_one_counts_as_zero():
    truth, mask = square((8, 8), (0, 4), (0, 4), value=1), square((8, 8), (0, 4), (0, 4), value=2)
    assert dice_by_label(mask, truth, 3) == [0.0, 0.0, None]
    assert mean_dice([1.0, 0.0, None]) == 0.5


def test_mean_of_nothing_is_none():
    assert mean_dice([None, None]) is None
    assert mean_dice([]) is None


def test_labels_are_matched_by_name_whatever_their_values():
    server = by_name(np.array([0, 7, 3, 9]), {"liver": 7, "spleen": 3, "unknown": 9}, ("spleen", "liver"))
    truth = by_name(np.array([0, 1, 2, 0]), {"liver": 1, "spleen": 2}, ("spleen", "liver"))
    np.testing.assert_array_equal(server, [0, 2, 1, 0])
    np.testing.assert_array_equal(server, truth)


def test_copying_onto_the_same_grid_changes_nothing():
    label = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype(np.uint8)
    copied = copy_resized(label, label.shape)
    np.testing.assert_array_equal(copied, label)
    assert copied.dtype == label.dtype


def test_copying_onto_twice_the_grid_doubles_every_voxel():
    label = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    expected = label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(copy_resized(label, (6, 8, 10)), expected)


@pytest.mark.parametrize("shape", [(5, 9), (13, 3)])
def test_copying_invents_no_label_values(shape):
    label = square((8, 8), (2, 6), (1, 5), value=200)
    assert set(np.unique(copy_resized(label, shape))) == {0, 200}
