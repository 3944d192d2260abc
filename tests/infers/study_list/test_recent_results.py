"""The last interactive results of each study."""

import numpy as np

from infers.study_list.recent_results import RecentResults
from lib.segmenters.contract import Prediction


def result(*names: str) -> Prediction:
    return Prediction(np.zeros((10, 10), np.uint8), {name: n for n, name in enumerate(names, start=1)}, {}, {})


def test_of_each_structure_the_newest_result_is_remembered_the_oldest_first() -> None:
    recent = RecentResults()
    organ, lesion, again = result("organ"), result("lesion"), result("organ")
    for one in (organ, lesion, again):
        recent.note("s0", one)
    assert recent.of("s0") == [lesion, again]
    assert recent.of("s1") == []


def test_a_result_of_several_structures_is_there_once() -> None:
    recent = RecentResults()
    both = result("organ", "lesion")
    recent.note("s0", both)
    assert recent.of("s0") == [both]


def test_what_was_saved_is_forgotten() -> None:
    recent = RecentResults()
    recent.note("s0", result("organ"))
    recent.forget("s0")
    recent.forget("s0")
    assert recent.of("s0") == []


def test_beyond_its_bound_the_studies_prompted_longest_ago_are_forgotten() -> None:
    recent = RecentResults(capacity=250)
    first, second, third = result("organ"), result("organ"), result("organ")
    recent.note("s0", first)
    recent.note("s1", second)
    recent.note("s0", first)
    recent.note("s2", third)
    assert (recent.of("s0"), recent.of("s1"), recent.of("s2")) == ([first], [], [third])


def test_the_newest_study_is_remembered_however_large_it_is() -> None:
    recent = RecentResults(capacity=1)
    large = result("organ")
    recent.note("s0", large)
    assert recent.of("s0") == [large]
