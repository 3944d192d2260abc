import numpy as np

from lib.quality.template_check import TemplateReport, most_typical, trial_studies, typicality


def looks(count=9, strangers=1):
    """Unit vectors: studies alike, each a little more different than the one before, and the last ones unlike all."""
    found = {}
    for number in range(count):
        angle = 0.05 * number if number < count - strangers else 2.0
        found[f"s{number}"] = np.array([np.cos(angle), np.sin(angle)])
    return found


def test_a_template_unlike_the_list_is_named_with_a_better_one():
    given = looks()
    typical = typicality(given)
    assert typical["s8"] == 0
    better = most_typical(given, ["s8"])
    assert better is not None
    assert typical[better] == 1
    warnings = TemplateReport({"s8": typical["s8"]}, better).warnings
    assert "s8 is unlike most of the list" in warnings
    assert better in warnings[-1]


def test_a_typical_template_is_left_in_peace():
    given = looks()
    best = max(typicality(given), key=typicality(given).get)
    assert most_typical(given, [best]) is None
    assert TemplateReport({best: 1.0}, None, {"organ": 0.95}, {"s1": 0.9}).warnings == []


def test_a_list_of_one_study_and_one_without_looks_say_nothing():
    assert typicality({"s0": np.ones(2)}) == typicality({}) == {}
    assert most_typical({"s0": np.ones(2)}, ["s0"]) is None
    assert trial_studies({"s0": np.ones(2)}, ["s0"], []) == []
    assert TemplateReport().warnings == []


def test_the_trial_takes_studies_like_the_template_unlike_it_and_between():
    given = looks()
    tried = trial_studies(given, ["s0"], [f"s{number}" for number in range(1, 9)])
    assert len(tried) == 3
    assert given[tried[0]] @ given["s0"] > given[tried[1]] @ given["s0"] > given[tried[2]] @ given["s0"]
    assert trial_studies(given, ["s0"], ["s1", "unread"]) == ["s1"]


def test_a_hard_structure_and_a_poor_trial_are_said_in_numbers():
    warnings = TemplateReport({}, None, {"vessel": 0.31}, {"a": 0.2, "b": 0.41, "c": 0.9}).warnings
    assert "vessel" in warnings[0]
    assert "0.31" in warnings[0]
    assert "3 studies is predicted at only 0.20, 0.41, 0.90" in warnings[1]
    assert "one study is predicted at only 0.30" in TemplateReport(trial={"a": 0.3}).warnings[0]
