import json

from lib.quality.alarms import EMPTY
from lib.quality.calibration import Calibration
from lib.quality.estimate import Quality, evidence_of, judge, recorded, told, weakest
from lib.quality.estimator import Estimator

PLAIN = Estimator(["reverse", "border"], [0.5, 0.5], [0.25, 0.25], [[{"weights": [[1.0, 0.5]], "bias": [0.0]}]])
GOOD = {"size": 0.2, "reverse": 0.9, "border": 0.8}


def test_a_quality_is_a_number_with_bounds_and_a_reason():
    found = judge(GOOD, PLAIN)
    assert 0 <= found.low <= found.dice <= found.high <= 1
    assert found.reason == "agrees with its templates"
    assert found.alarms == ()


def test_what_speaks_against_a_mask_is_its_reason():
    unsure = {**GOOD, "border": 0.0}
    assert weakest(unsure, PLAIN) == "border"
    assert judge(unsure, PLAIN).reason == "its outline is uncertain"


def test_an_empty_mask_is_worth_nothing_and_says_why():
    found = judge({"thinness": 1.5, "expected": 0.0}, PLAIN)
    assert (found.dice, found.low, found.high, found.alarms) == (0, 0, 0, (EMPTY,))


def test_no_evidence_at_all_claims_nothing():
    found = judge({}, PLAIN)
    assert (found.low, found.high, found.alarms) == (0, 1, ())


def test_a_record_says_again_what_was_judged():
    judged = {"organ": judge(GOOD, PLAIN), "lesion": judge({**GOOD, "volume": 2.0}, PLAIN)}
    stored = json.loads(json.dumps(told(judged, {"organ": GOOD})))
    assert stored["alarms"]["lesion"] == ["volume 7.4 times the templates'"]
    found = recorded(stored)
    assert found.keys() == judged.keys()
    assert abs(found["organ"].low - judged["organ"].low) < 1e-3
    assert found["lesion"].alarms == judged["lesion"].alarms
    assert evidence_of(stored) == {"organ": GOOD}


def test_the_lists_corrections_change_what_a_record_says():
    found = recorded(json.loads(json.dumps(told({"organ": judge(GOOD, PLAIN)}, {}))))["organ"]
    assert found.calibrated(Calibration.of([(0.8, 0.3)] * 10, PLAIN)).dice < found.dice - 0.2


def test_a_record_from_before_there_were_intervals_stays_readable():
    found = recorded({"quality": {"organ": 0.7, "lesion": None, "vein": float("nan"), "duct": 7}, "version": 1})
    assert found == {"organ": Quality(0.7)}
    assert found["organ"].calibrated(Calibration.of([(0.8, 0.3)] * 10, PLAIN)).dice == 0.7


def test_nonsense_in_a_record_is_left_out():
    broken = {"quality": {"organ": 0.7}, "quality_interval": {"organ": [0.1]}, "alarms": {"organ": 3}, "evidence": [1]}
    assert recorded(broken) == {"organ": Quality(0.7)}
    assert evidence_of(broken) == {}
    assert recorded(None) == recorded([]) == recorded({"quality": 3}) == {}
