from types import SimpleNamespace
from typing import Any

from infers.study_list.rows import Row
from infers.use_cases.status import SHOWN, Status


def status_of(rows: list[Row]) -> Status:
    """The status of a list with these rows, where nothing else is worth a word."""
    model: Any = SimpleNamespace(weights_hash="w")
    studies: Any = SimpleNamespace(labels=SimpleNamespace(names={}), templates=dict)
    job: Any = SimpleNamespace(status=lambda: SimpleNamespace(to_dict=dict))
    board: Any = SimpleNamespace(rows=lambda: rows, unreadable=dict, quality=dict, warnings=list)
    nothing: Any = None
    return Status(studies, job, board, nothing, nothing, model, nothing, nothing, nothing, 1, dict)


def test_of_a_long_list_the_first_studies_are_told_of_and_all_are_counted():
    rows = [Row(f"s{number:05}", "automatic" if number % 2 else "unlabelled") for number in range(10_000)]
    status = status_of(rows)
    assert list(status.of_list()["studies"]) == [row.id for row in rows[:SHOWN]]
    assert status.of_list()["counts"] == {"automatic": 5000, "unlabelled": 5000}
    assert len(status.of_list(all_studies=True)["studies"]) == 10_000
