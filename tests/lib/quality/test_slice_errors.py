import json

import numpy as np
import pytest

from lib.quality.slice_errors import expected_errors, slice_errors


def cylinder(depth=9):
    """A rod of the same section on every slice, (N, H, W)."""
    rows, columns = np.mgrid[:24, :24] - 12
    return np.repeat((rows**2 + columns**2 <= 36)[None], depth, axis=0)


def test_a_slice_unlike_its_neighbours_has_the_largest_expectation():
    mask = cylinder()
    mask[4, 2:9, 2:9] = True
    assert expected_errors(mask).argmax() == 4
    mask[4] = False
    assert expected_errors(mask).argmax() == 4


def test_longer_borders_are_expected_to_have_more_errors():
    mask = cylinder()
    mask[:, 8:16, 8:16] = False  # a tube has two borders
    assert (expected_errors(mask)[1:-1] > expected_errors(cylinder())[1:-1]).all()


def test_an_empty_slice_far_from_the_mask_has_none():
    mask = np.concatenate([cylinder(), np.zeros((3, 24, 24), bool)])
    expected = expected_errors(mask)
    assert expected[-1] == expected[-2] == 0
    assert expected[len(mask) - 3] > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_record_counts_slices_as_the_image_does(axis):
    mask = cylinder()
    mask[4, 2:9, 2:9] = True
    label = np.moveaxis(np.pad(3 * mask.astype(np.uint8), ((20, 4), (3, 1), (5, 2))), 0, axis)
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(label))
    record = slice_errors(label, {"rod": 3, "absent": 2}, {"rod": box}, axis)["rod"]
    assert (record["axis"], record["first"], record["worst"]) == (axis, 20, 24)
    assert len(record["expected"]) == 9
    assert json.loads(json.dumps(record)) == record
