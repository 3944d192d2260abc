import numpy as np
import pytest

from lib.quality.estimator import Estimator
from scripts.measure.calibration.curves import draw
from scripts.measure.calibration.fitting import fit
from scripts.measure.calibration.lists import Record
from scripts.measure.calibration.measures import auroc, predict_lists, summary

HONEST = Estimator(
    ["reverse"],
    [0.5],
    [0.25],
    [[{"weights": [[1.1]], "bias": [0.0]}]],
    steps=(0.0, 1.0),
    low=(0.0, 0.8),
    high=(0.2, 1.0),
    scores=(-0.05, 0.0, 0.05),
)


def records(count=30, lists=("a", "b"), noise=0.05, bias=0.0, seed=0):
    """Masks whose evidence says about what they are worth."""
    rng = np.random.default_rng(seed)
    found = []
    for name in lists:
        for number in range(count):
            dice = float(rng.uniform(0.3, 0.95))
            raw = float(np.clip(dice + bias + rng.normal(0, noise), 0.02, 0.98))
            evidence = {"size": 0.1, "reverse": 0.5 + 0.25 * np.log(raw / (1 - raw)) / 1.1}
            found.append(Record(name, f"{name} 0", f"s{number}", "organ", evidence, dice))
    return found


def test_honest_predictions_score_well():
    found = summary(predict_lists(records(), HONEST, 0))
    assert found["masks"] == 60
    assert found["correlation"] > 0.9
    assert found["error"] < 0.06
    assert found["auroc"] > 0.95
    assert found["coverage"] > 0.85


def test_corrected_studies_are_not_asked_about_and_make_the_rest_better():
    wrong = records(bias=0.25)
    before, after = (summary(predict_lists(wrong, HONEST, count)) for count in (0, 20))
    assert after["masks"] == 2 * 10 * 10
    assert after["error"] < before["error"] - 0.1
    assert after["coverage"] > before["coverage"]


def test_a_list_that_is_too_short_for_so_many_corrections_is_left_out():
    assert predict_lists(records(count=6), HONEST, 5) == []
    assert summary([])["correlation"] is None


def test_constant_predictions_have_no_correlation_and_no_nan():
    constant = [Record("a", "a 0", f"s{n}", "organ", {"size": 0.1, "reverse": 0.5}, 0.5) for n in range(5)]
    found = summary(predict_lists(constant, HONEST, 0))
    assert found["correlation"] is None
    assert found["auroc"] is None
    assert not any(value is not None and np.isnan(value) for value in found.values())


def test_a_mask_with_an_alarm_is_not_accepted_unseen():
    good = {"size": 0.1, "reverse": 2.0}
    rows = [
        Record("a", "a 0", f"s{n}", "organ", {**good, **more}, 0.9) for n, more in enumerate(({}, {"contact": 0.5}))
    ]
    found = summary(predict_lists(rows, HONEST, 0))
    assert (found["accepted"], found["good_accepted"]) == (1, 0.5)


def test_an_empty_mask_is_told_to_be_worth_nothing():
    empty = Record("a", "a 0", "s0", "organ", {"thinness": 1.0, "expected": 0.0}, 0.0)
    assert [one.dice for one in predict_lists([empty], HONEST, 0)] == [0.0]


def test_auroc_counts_pairs_in_order():
    assert auroc(np.array([3.0, 2.0, 1.0]), np.array([True, False, False])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert auroc(np.array([1.0]), np.array([True])) is None


@pytest.fixture(scope="module")
def fitted():
    given = records(60, ("a", "b", "c", "d"), noise=0.03)
    return fit(given, ["reverse", "votes"], {"command": "a test"})


def test_a_fitted_estimator_knows_lists_that_it_never_saw(fitted):
    found = summary(predict_lists(records(40, ("new",), noise=0.03, seed=5), fitted, 0))
    assert found["correlation"] > 0.9
    assert found["error"] < 0.08
    assert found["coverage"] > 0.8
    assert fitted.about["lists"] == ["a", "b", "c", "d"]
    assert fitted.about["correlation"] > 0.9


def test_its_bounds_surround_its_estimates(fitted):
    for estimate in np.linspace(0, 1, 11):
        low, high = fitted.bounds(float(estimate))
        assert 0 <= low <= estimate <= high <= 1


def test_curves_are_drawn_also_where_nothing_was_accepted(tmp_path):
    answers = {count: predict_lists(records(), HONEST, count) for count in (0, 5)}
    draw(answers, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
