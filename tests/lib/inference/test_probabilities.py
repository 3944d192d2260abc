"""Several answers become one mask."""

import numpy as np
import pytest

from lib.inference.probabilities import (
    box_reaching_threshold,
    dice_optimal_threshold,
    mean_logits,
    to_logit,
    to_probability,
)


def test_probabilities_and_logits_are_each_others_inverse_and_finite():
    logits = np.array([-8.0, -1.5, 0.0, 3.0])
    np.testing.assert_allclose(to_logit(to_probability(logits)), logits, atol=1e-6)
    assert np.isfinite(to_logit(np.array([0.0, 1.0]))).all()
    assert np.isfinite(to_probability(np.array([-1e5, 1e5]))).all()


def test_answers_that_disagree_do_not_cancel_out():
    here, there = np.full(20, -8.0), np.full(20, -8.0)
    here[:5], there[5:10] = 3.0, 3.0
    mean = mean_logits([here, there])
    assert not (mean > 0).any()
    found = mean > dice_optimal_threshold(mean, 0.2)
    assert found.tolist() == [True] * 10 + [False] * 10


def test_a_clear_answer_is_cut_at_one_half():
    clear = np.concatenate([np.full(300, 6.0), np.full(40, -0.5), np.full(5000, -6.0)])
    assert ((clear > dice_optimal_threshold(clear, 0.2)) == (clear > 0)).all()


def test_the_line_promises_the_highest_dice():
    logits = np.random.default_rng(0).normal(-1.5, 1.5, 4000)
    probabilities = to_probability(logits)

    def promised(line):
        inside = logits > line
        return 2 * probabilities[inside].sum() / (inside.sum() + probabilities[probabilities > 0.2].sum())

    best = dice_optimal_threshold(logits, 0.2)
    assert best < 0
    assert promised(best) >= max(promised(line) for line in np.linspace(-1.3, 0, 50)) - 1e-3


@pytest.mark.parametrize("logits", [np.full(9, -7.0), np.full(9, 7.0), np.empty(0)])
def test_where_there_is_nothing_to_choose_the_line_is_one_half_or_below(logits):
    line = dice_optimal_threshold(logits, 0.2)
    assert to_logit(np.float64(0.2)) <= line <= 0
    assert ((logits > line) == (logits > 0)).all()


def test_one_half_switches_it_off():
    assert dice_optimal_threshold(np.random.default_rng(0).normal(-1, 1, 99), 0.5) == 0


def cell() -> np.ndarray:
    """Logits of a network that is sure of the nucleus and half-hearted about the cell around it."""
    rows, columns = np.ogrid[:32, :32]
    distance = np.hypot(rows - 16, columns - 16)
    return np.where(distance < 4, 5.0, np.where(distance < 11, -1.0, -6.0)).astype(np.float32) - 0.01 * distance


def test_an_answer_inside_a_box_is_cut_where_it_reaches_the_sides_and_no_lower():
    logits, inside = cell(), np.zeros((32, 32), bool)
    inside[6:27, 6:27] = True
    found = inside & (logits > box_reaching_threshold(logits, inside))
    assert found[16, 7]
    assert found[7, 16]
    assert not found[6, 6]


def test_an_answer_that_reaches_its_box_stays_as_it_is():
    logits, inside = cell(), np.zeros((32, 32), bool)
    inside[13:20, 13:20] = True
    assert box_reaching_threshold(logits, inside) == 0


def test_a_box_of_one_pixel_has_a_line():
    inside = np.zeros((32, 32), bool)
    inside[3, 3] = True
    assert np.isfinite(box_reaching_threshold(cell(), inside))
