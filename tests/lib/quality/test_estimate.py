import json

from lib.quality.alarms import EMPTY
from lib.quality.calibration import Calibration
from lib.quality.estimate import (
    UNKNOWN,
    Quality,
    estimate_quality,
    quality_record,
    read_features,
    read_qualities,
    weakest,
)
from lib.quality.estimator import Estimator

PLAIN = Estimator(["reverse", "border"], [0.5, 0.5], [0.25, 0.25], [[{"weights": [[1.0, 0.5]], "bias": [0.0]}]])
GOOD = {"size": 0.2, "reverse": 0.9, "border": 0.8}


def test_a_quality_is_a_number_with_bounds_and_a_reason():
    found = estimate_quality(GOOD, PLAIN)
    assert 0 <= found.low <= found.dice <= found.high <= 1
    assert found.reason == "agrees with its templates"
    assert found.alarms == ()


def test_what_speaks_against_a_mask_is_its_reason():
    unsure = {**GOOD, "border": 0.0}
    assert weakest(unsure, PLAIN) == "border"
    assert estimate_quality(unsure, PLAIN).reason == "its outline is uncertain"


def test_an_empty_mask_is_worth_nothing_and_says_why():
    found = estimate_quality({"thinness": 1.5, "expected": 0.0}, PLAIN)
    assert (found.dice, found.low, found.high, found.alarms) == (0, 0, 0, (EMPTY,))


def test_no_evidence_at_all_claims_nothing():
    found = estimate_quality({}, PLAIN)
    assert (found.low, found.high, found.alarms) == (0, 1, ())


def test_a_record_says_again_what_was_judged():
    judged = {"organ": estimate_quality(GOOD, PLAIN), "lesion": estimate_quality({**GOOD, "volume": 2.0}, PLAIN)}
    stored = json.loads(json.dumps(quality_record(judged, {"organ": GOOD})))
    assert stored["alarms"]["lesion"] == ["volume 7.4 times the templates'"]
    found = read_qualities(stored)
    assert found.keys() == judged.keys()
    assert abs(found["organ"].low - judged["organ"].low) < 1e-3
    assert found["lesion"].alarms == judged["lesion"].alarms
    assert read_features(stored) == {"organ": GOOD}


def test_the_lists_corrections_change_what_a_record_says():
    found = read_qualities(json.loads(json.dumps(quality_record({"organ": estimate_quality(GOOD, PLAIN)}, {}))))[
        "organ"
    ]
    assert found.calibrated(Calibration.of([(0.8, 0.3)] * 10, PLAIN)).dice < found.dice - 0.2


def test_a_record_from_before_there_were_intervals_stays_readable():
    found = read_qualities({"quality": {"organ": 0.7, "lesion": None, "vein": float("nan"), "duct": 7}, "version": 1})
    assert found == {"organ": Quality(0.7)}
    assert found["organ"].calibrated(Calibration.of([(0.8, 0.3)] * 10, PLAIN)).dice == 0.7


def test_nonsense_in_a_record_is_left_out():
    broken = {"quality": {"organ": 0.7}, "quality_interval": {"organ": [0.1]}, "alarms": {"organ": 3}, "evidence": [1]}
    assert read_qualities(broken) == {"organ": Quality(0.7)}
    assert read_features(broken) == {}
    assert read_qualities(None) == read_qualities([]) == read_qualities({"quality": 3}) == {}


def test_without_an_estimator_a_record_says_so_and_keeps_its_alarms():
    torn = {**GOOD, "parts": 2.0}
    qualities = {"organ": estimate_quality(GOOD, None), "lesion": estimate_quality(torn, None)}
    record = json.loads(json.dumps(quality_record(qualities, {"organ": GOOD, "lesion": torn})))
    assert record["quality"] == {}
    found = read_qualities(record)
    assert (found["organ"].dice, found["organ"].reason) == (None, UNKNOWN)
    assert found["lesion"].reason == found["lesion"].alarms[0] == "7.4 times as many parts as in the templates"
