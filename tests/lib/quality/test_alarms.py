import numpy as np
import pytest

from lib.quality.alarms import EMPTY, FINE, alarms, reason

CALM = {"size": 0.2, "volume": 0.1, "contact": 0.0, "parts": 0.0, "place": 0.05, "reverse": 0.9, "votes": 0.9}


def test_a_mask_like_its_templates_alarms_nobody():
    assert alarms(CALM) == []
    assert reason(CALM, None) == FINE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volume": np.log(3.1)}, "volume 3.1 times the templates'"),
        ({"volume": np.log(0.2)}, "volume 0.2 times the templates'"),
        ({"contact": 0.2}, "touches the image border"),
        ({"parts": np.log(5)}, "5 times as many parts"),
        ({"place": 0.4}, "lies elsewhere"),
        ({"votes": 0.2}, "contradict"),
        ({"planes": 0.2}, "contradict"),
        ({"reverse": 0.1}, "does not find the original label"),
    ],
)
def test_each_alarm_says_what_a_person_would_see(change, words):
    found = alarms({**CALM, **change})
    assert len(found) == 1
    assert words in found[0]
    assert reason({**CALM, **change}, None) == found[0]


def test_an_empty_mask_says_so_and_no_evidence_says_nothing():
    assert alarms({"thinness": 1.5, "expected": 0.0}) == [EMPTY]
    assert alarms({}) == []


def test_without_alarm_the_weakest_evidence_is_the_reason():
    assert reason(CALM, "border") == "its outline is uncertain"
    assert reason(CALM, "templates") == FINE
