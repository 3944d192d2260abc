import dataclasses
import json

import numpy as np
import pytest

from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network, weights_hash
from lib.quality.estimator import Estimator, EstimatorError

LAYERS = [{"weights": [[2.0, 0.0], [0.0, 1.0]], "bias": [0.0, 0.0]}, {"weights": [[1.5, 0.5]], "bias": [0.1]}]
RISING = Estimator(["reverse", "votes"], [0.5, 0.5], [0.25, 0.25], [LAYERS], about={"weights": "abc"})


def test_what_speaks_for_a_mask_raises_its_estimate():
    told = [RISING.estimate({"reverse": value, "votes": value}) for value in (0.1, 0.5, 0.9)]
    assert told == sorted(told)
    assert all(0 < value < 1 for value in told)


def test_a_feature_that_is_missing_or_no_number_counts_as_average():
    assert RISING.estimate({"reverse": 0.9}) == RISING.estimate({"reverse": 0.9, "votes": 0.5})
    assert RISING.estimate({"reverse": 0.9, "votes": float("nan")}) == RISING.estimate({"reverse": 0.9})
    assert np.isfinite(RISING.estimate({}))


def test_what_lies_beyond_anything_seen_says_no_more_than_that():
    assert RISING.estimate({"reverse": 50.0}) == RISING.estimate({"reverse": 1.25})


def test_it_is_read_as_it_was_written(tmp_path):
    RISING.write(tmp_path / "quality.json")
    found = Estimator.read(tmp_path / "quality.json")
    assert found.estimate({"reverse": 0.7}) == RISING.estimate({"reverse": 0.7})
    assert found.about == {"weights": "abc"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"version": 1}', json.dumps({"version": 99, **vars(RISING)}), '{"version": 1, "features": ["a"]}'],
)
def test_what_is_no_estimator_is_refused_with_the_file(tmp_path, text):
    path = tmp_path / "quality.json"
    path.write_text(text)
    with pytest.raises(EstimatorError, match="must hold"):
        Estimator.read(path)


def test_one_ships_with_the_weights_and_tells_good_from_bad():
    shipped = Estimator.shipped()
    good = {"reverse": 0.95, "expected": 0.95, "again": 0.95, "opinions": 0.95, "inside": 0.98, "overlap": 0.7}
    bad = {"reverse": 0.1, "expected": 0.6, "again": 0.2, "opinions": 0.2, "inside": 0.7, "overlap": 0.0}
    assert shipped.estimate(good) > 0.7 > 0.5 > shipped.estimate(bad)
    assert shipped.about["masks"] > 100


def test_it_is_used_for_the_weights_that_it_was_valid_for_alone(tmp_path):
    weights = tmp_path / "weights.safetensors"
    assert Estimator.valid_for("abc", weights) is None
    RISING.write(tmp_path / "weights.quality.json")
    found = Estimator.valid_for("abc", weights)
    assert found is not None
    assert found.estimate({"reverse": 0.7}) == RISING.estimate({"reverse": 0.7})
    assert Estimator.valid_for("another", weights) is None
    about = {**RISING.about, "also_for": ["another"]}
    dataclasses.replace(RISING, about=about).write(tmp_path / "weights.quality.json")
    assert Estimator.valid_for("another", weights) is not None


def test_the_one_that_ships_was_valid_for_the_weights_that_ship():
    assert Estimator.valid_for(weights_hash(load_network(SHIPPED_WEIGHTS))) is Estimator.shipped()
