import numpy as np
import pytest

from lib.imaging.metrics import dice
from scripts.measure.simulation.outlines import by_hand, draw, outline


def disc(radius=10, shape=(40, 40), centre=(20, 20)):
    i, j = np.indices(shape)
    return (i - centre[0]) ** 2 + (j - centre[1]) ** 2 <= radius**2


def test_a_finer_outline_takes_more_corners():
    drawn, clicks = outline(disc(), 0.85)
    finer, more = outline(disc(), 0.97)
    assert 0.85 <= dice(drawn, disc()) < 0.97 <= dice(finer, disc())
    assert 3 <= clicks < more


def test_every_part_and_every_hole_is_outlined_for_itself():
    one = outline(disc(6, centre=(10, 10)), 0.9)[1]
    two = disc(6, centre=(10, 10)) | disc(6, centre=(30, 30))
    assert outline(two, 0.9)[1] == 2 * one
    ring = disc(14) & ~disc(6)
    drawn, _ = outline(ring, 0.85)
    assert not drawn[20, 20]


def test_what_no_polygon_reaches_is_taken_as_drawn_with_the_most_corners():
    noise = np.random.default_rng(0).random((30, 30)) > 0.5
    drawn, clicks = outline(noise, 1.0)
    np.testing.assert_array_equal(drawn, noise)
    assert clicks >= 64


def test_the_most_wrong_slices_are_redrawn_until_the_goals_are_reached():
    truth = np.stack([disc(radius) for radius in (0, 6, 10, 12, 8)], axis=2)
    truth[..., 0] = False
    mask = truth.copy()
    mask[..., 3] = False
    mask[..., 0] = disc(3)
    found, clicks = draw(mask, truth, 2, (0.85, 0.9))
    assert dice(found, truth) >= 0.9
    np.testing.assert_array_equal(found[..., 4], truth[..., 4])  # nobody touched what was right
    assert 3 <= clicks[0.85] <= clicks[0.9]
    assert draw(truth, truth, 2, (0.85,))[1] == {0.85: 0}


def test_wiping_out_a_slice_is_one_click():
    truth = np.zeros((40, 40, 3), bool)
    truth[..., 1] = disc()
    mask = truth.copy()
    mask[..., 2] = disc()
    found, clicks = draw(mask, truth, 2, (0.9,))
    assert clicks == {0.9: 1}
    np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1)])
def test_pictures_are_drawn_as_one_slice(shape):
    truth = disc().reshape(shape)
    found, clicks = draw(np.zeros(shape, bool), truth, 2, (0.9,))
    assert found.shape == shape
    assert dice(found, truth) >= 0.9
    assert by_hand({"disc": truth}, 2, (0.9,)) == {"disc": clicks}
