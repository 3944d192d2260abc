import numpy as np
import pytest

from lib.imaging.runs import pixels_of, runs_of


def test_a_slice_comes_back_from_its_runs():
    pixels = np.random.default_rng(0).random((7, 5)) > 0.5
    runs = runs_of(pixels)
    np.testing.assert_array_equal(pixels_of(runs, (7, 5)), pixels)
    assert runs_of(pixels_of([], (7, 5))) == []
    column = np.zeros((7, 5), bool)
    column[:, 2] = True
    assert runs_of(column) == [14, 7]  # the first axis is the fastest


@pytest.mark.parametrize("runs", [[3], [30, 6], [0, 36]])
def test_runs_that_do_not_fit_are_refused(runs):
    with pytest.raises(ValueError, match="within 35 pixels"):
        pixels_of(runs, (7, 5))
