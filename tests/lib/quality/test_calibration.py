import numpy as np
import pytest

from lib.quality.calibration import Calibration
from lib.quality.estimator import Estimator

EVEN = Estimator(
    ["reverse"],
    [0.5],
    [0.25],
    [[{"weights": [[1.0]], "bias": [0.0]}]],
    steps=(0.0, 1.0),
    low=(0.0, 0.8),
    high=(0.2, 1.0),
    scores=tuple(np.linspace(-0.1, 0.05, 101)),
)


def list_of(count, seed=0, bias=-0.2, noise=0.05):
    """(estimate, true Dice) of studies in a list on which the estimator is wrong by `bias`."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.5, 0.9, count)
    return [(float(a), float(np.clip(a + bias + rng.normal(0, noise), 0, 1))) for a in raw]


def test_without_corrections_the_estimate_stays_and_its_bounds_surround_it():
    dice, low, high = Calibration.of([], EVEN).apply(0.7)
    assert dice == 0.7
    assert 0 <= low <= dice <= high <= 1


def test_corrections_move_the_estimates_of_the_list_more_and_more():
    told = [Calibration.of(list_of(count), EVEN).apply(0.7)[0] for count in (0, 1, 5, 80)]
    assert told == sorted(told, reverse=True)
    assert told[-1] == pytest.approx(0.5, abs=0.03)


def test_one_strange_correction_does_not_turn_a_list_over():
    dice = Calibration.of([(0.9, 0.0)], EVEN).apply(0.9)[0]
    assert dice > 0.5


def test_masks_that_were_corrected_because_they_looked_bad_say_nothing_of_those_that_look_good():
    calibration = Calibration.of([(0.4, 0.8)] * 5, EVEN)
    assert calibration.apply(0.4)[0] > 0.6
    assert calibration.apply(0.85)[0] == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize("count", [20, 60])
def test_intervals_hold_about_nine_of_ten_once_a_list_has_taught_them(count):
    inside = []
    for seed in range(40):
        pairs = list_of(count + 50, seed, noise=0.12)
        calibration = Calibration.of(pairs[:count], EVEN)
        inside += [low <= truth <= high for raw, truth in pairs[count:] for _, low, high in [calibration.apply(raw)]]
    assert 0.85 <= np.mean(inside) <= 0.97


def test_a_list_that_scatters_gets_wider_intervals():
    widths = []
    for noise in (0.02, 0.25):
        _, low, high = Calibration.of(list_of(30, bias=0.0, noise=noise), EVEN).apply(0.6)
        widths.append(high - low)
    assert widths[1] > widths[0] + 0.1


def test_what_is_not_a_number_teaches_nothing():
    assert Calibration.of([(float("nan"), 0.5), (0.5, float("nan"))], EVEN) == Calibration.of([], EVEN)


@pytest.mark.parametrize("raw", [0.0, 1.0])
def test_nothing_leaves_the_range_of_a_dice(raw):
    for pairs in ([(0.5, 1.0)] * 9, [(0.5, 0.0)] * 9):
        assert all(0 <= value <= 1 for value in Calibration.of(pairs, EVEN).apply(raw))
