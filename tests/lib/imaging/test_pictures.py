import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.pictures import COLOURS, most_telling, overlay, upright

AFFINES = {"RAS": np.diag([1.0, 1.0, 4.0, 1.0]), "LPS": np.diag([-1.0, -1.0, 4.0, 1.0])}


def noise(shape):
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def coloured(picture):
    """Rows and columns of the pixels that are not grey."""
    return np.nonzero(picture.max(axis=2).astype(int) - picture.min(axis=2) > 20)


def test_the_slice_with_the_largest_area_is_the_most_telling():
    mask = np.zeros((8, 8, 5), np.uint8)
    mask[1, 1, 1] = mask[2:6, 2:6, 3] = 1
    assert most_telling(mask, 2) == 3
    assert most_telling(np.zeros_like(mask), 2) == 2


@pytest.mark.parametrize("axes", AFFINES)
def test_the_patients_right_front_is_shown_at_the_upper_left(axes):
    affine = AFFINES[axes]
    mask = np.zeros((40, 40, 5), np.uint8)
    right, front = (slice(30, 38) if side > 0 else slice(2, 10) for side in (affine[0, 0], affine[1, 1]))
    mask[right, front, 2] = 1
    rows, columns = coloured(overlay(Image(noise(mask.shape), affine), mask, 80))
    assert rows.size
    assert rows.max() < 40
    assert columns.max() < 40


def test_a_slice_keeps_its_true_proportions():
    affine = np.diag([1.0, 5.0, 2.0, 1.0])  # thickest along j: a coronal slice, 20 mm wide and 60 mm high
    picture = overlay(Image(noise((20, 6, 30)), affine), None, 90)
    assert picture.shape == (90, 30, 3)
    assert upright([noise((20, 6, 30))], affine).axis == 1


def test_structures_are_outlined_in_their_own_colours_and_the_rest_stays_grey():
    mask = np.zeros((30, 20), np.uint8)
    mask[3:10, 3:10], mask[15:25, 3:10] = 1, 2
    picture = overlay(Image(noise(mask.shape), np.eye(4)), mask, 60)
    found = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert {COLOURS[0], COLOURS[1]} <= found
    rows, columns = coloured(picture)
    assert columns.min() == 6  # column 3 of the file, at twice the size
    assert rows.max() < 30  # picture files are shown as they lie: j is the row


def test_an_image_without_a_mask_is_grey():
    picture = overlay(Image(noise((20, 20, 4)), np.eye(4)), None, 40)
    assert coloured(picture)[0].size == 0
    assert picture.max() > 200
