"""MONAI Label's batches, trainings and scorings in processes of their own, answered as they stand at one moment.

Each is a dictionary, which the thread that follows its process changes, and MONAI Label answers with that very one:
where it grows while it is written as JSON, whoever asked gets a server error.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from monailabel.utils.async_tasks import task
from monailabel.utils.async_tasks import utils as processes


def snapshot(value: Any) -> Any:
    """A copy of dictionaries and lists within each other; a deque becomes a list.

    Each is copied by one call into the interpreter, before it is looked through: no other thread comes between.
    """
    if isinstance(value, dict):
        return {key: snapshot(one) for key, one in dict(value).items()}
    return [snapshot(one) for one in list(value)] if isinstance(value, list | tuple | deque) else value


def tasks(method: str) -> list[dict[str, Any]]:
    """All tasks of a kind (`train`, `batch_infer`, `scoring`), the oldest first."""
    return snapshot(processes.tasks(method))


def _by_snapshot(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def answer(*arguments: Any, **options: Any) -> Any:
        return snapshot(function(*arguments, **options))

    return answer


# What `AsyncTask` answers with, which all of MONAI Label's endpoints ask
task.tasks = tasks
task.run_background_task = _by_snapshot(processes.run_background_task)
task.stop_background_task = _by_snapshot(processes.stop_background_task)
