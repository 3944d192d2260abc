"""Which templates meet which queries."""

from __future__ import annotations

from lib.learning.datasets import read_dataset
from scripts.measure.evaluation.cases import CaseFolder
from scripts.measure.evaluation.plan import Settings, tasks_of
from tests.scripts.measure.evaluation.samples import write_blocks, write_squares


def plan(folder, settings=Settings(queries=3)):
    return tasks_of(CaseFolder.open(read_dataset(folder)), settings)


def test_a_template_never_meets_its_own_subject(tmp_path):
    subjects = {f"{n}.png": f"patient {n // 3}" for n in range(12)}
    tasks, _ = plan(write_squares(tmp_path / "a", files=12, subjects=subjects))
    pairs = [(template, q.query) for task in tasks for q in task.questions for template in q.templates]
    assert pairs
    assert all(subjects[template] != subjects[query] for template, query in pairs)


def test_all_structures_are_asked_with_the_same_templates_and_queries(tmp_path):
    (first, second), _ = plan(write_squares(tmp_path / "a"))
    assert (first.values, second.values) == ((1,), (2,))
    assert first.questions == second.questions
    assert plan(tmp_path / "a")[0] == [first, second]
    assert plan(tmp_path / "a", Settings(queries=3, seed=1))[0] != [first, second]


def test_single_templates_come_first_and_then_groups_that_say_what_they_lack(tmp_path):
    (task, _), _ = plan(write_squares(tmp_path / "a", files=13))
    singles = [q for q in task.questions if q.wanted == 1]
    assert len({q.group for q in singles}) == 8
    assert {q.query for q in singles} == set(task.queries)
    fours = [q for q in task.questions if q.wanted == 4]
    assert {q.group for q in fours} == {"group 1", "group 2", "group 3"}  # 13 templates make three whole groups
    assert {len(q.templates) for q in fours} == {4}
    assert {len(q.templates) for q in task.questions if q.wanted == 16} == {12}  # all but the query


def test_queries_are_templates_too_only_where_the_set_is_small(tmp_path):
    (large, _), _ = plan(write_squares(tmp_path / "large", files=11))
    assert not {q.group for q in large.questions if q.wanted == 1} & set(large.queries)
    (small, _), _ = plan(write_squares(tmp_path / "small", files=4))
    assert {q.group for q in small.questions if q.wanted == 1} & set(small.queries)


def test_a_structure_of_one_subject_is_refused_with_the_reason(tmp_path):
    folder = write_squares(tmp_path / "a", subjects={f"{n}.png": "one" for n in range(6)})
    tasks, refused = plan(folder)
    assert not tasks
    assert set(refused) == {"square", "stripe"}
    assert "two subjects" in refused["square"]


def test_volumes_are_asked_for_all_their_structures_at_once(tmp_path):
    (task,), _ = plan(write_blocks(tmp_path / "a"))
    assert task.values == (1,)
    assert len(task.queries) == 3
