import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.volumes import Stack
from lib.inference.matching import Match, MatchSettings, match, match_descriptors


def stack(depth, thickness=1.0):
    array = np.random.default_rng(0).normal(size=(4, 4, depth))
    return Stack.of(Image(array, np.diag([-1.0, -1.0, -thickness, 1.0])), plane=2)


def descriptors(places):
    """A body whose look changes steadily from place to place."""
    places = np.asarray(places, float)
    return np.stack([np.cos(places / 5), np.sin(places / 5), np.full_like(places, 30)], axis=1)


def test_equal_studies_match_slice_by_slice():
    found = match_descriptors(stack(12), stack(12), descriptors(range(12)), descriptors(range(12)), MatchSettings())
    np.testing.assert_array_equal(found.path, np.arange(12))


def test_study_with_a_shorter_field_of_view_finds_its_part_of_the_body():
    found = match_descriptors(stack(8), stack(20), descriptors(range(10, 18)), descriptors(range(20)), MatchSettings())
    assert np.abs(found.path - np.arange(10, 18)).max() <= 1


def test_one_slice_that_looks_like_another_place_does_not_lead_the_path_back():
    places = [0, 1, 9, 3, 4, 5]
    aligned = match_descriptors(stack(6), stack(10), descriptors(places), descriptors(range(10)), MatchSettings())
    assert (np.diff(aligned.path) >= 0).all()


def test_slices_are_matched_by_their_grey_values_whatever_their_contrast_and_size():
    shape = np.random.default_rng(1).normal(size=(8, 8, 10)).repeat(4, axis=0).repeat(4, axis=1)
    affine = np.diag([-1.0, -1.0, -1.0, 1.0])
    template = Stack.of(Image(shape, affine), plane=2)
    query = Stack.of(Image(500 + 90 * shape.repeat(2, axis=0)[:, :, 2:8], affine), plane=2)
    assert match(query, template, MatchSettings()).path.tolist() == [2, 3, 4, 5, 6, 7]


def test_single_slices_match():
    assert match_descriptors(stack(1), stack(1), descriptors([3]), descriptors([5]), MatchSettings()).path.tolist() == [
        0
    ]


@pytest.mark.parametrize(("thickness", "step"), [(0.5, 2), (1.0, 1), (5.0, 1)])
def test_neighbours_lie_a_millimetre_apart_or_one_slice(thickness, step):
    found = match_descriptors(
        stack(12, thickness), stack(12, thickness), descriptors(range(12)), descriptors(range(12)), MatchSettings()
    )
    assert found.around(6, 3) == [6 - step, 6, 6 + step]


def test_neighbours_stay_within_the_template():
    found = Match(np.array([0, 2, 3]), slices=4, step=1)
    assert found.around(0, 3) == [0, 1]
    assert found.around(1, 5) == [0, 1, 2, 3]
    assert found.around(2, 1) == [3]
