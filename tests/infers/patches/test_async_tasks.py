"""What is answered of MONAI Label's processes, whose threads change their tasks at any moment."""

import copy
from collections import deque
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from monailabel.utils.async_tasks import utils as processes
from monailabel.utils.async_tasks.task import AsyncTask
from pydantic import BaseModel, model_serializer

from infers.api.endpoints import own_router
from infers.patches.async_tasks import tasks
from infers.patches.stock_routes import add_stock_routes
from tests.infers.api.fakes import FakeApp
from tests.infers.asgi import get


def go_on():
    """Change all tasks, as their threads do."""
    for task in [task for kind in processes.background_tasks.values() for task in kind]:
        for part in (task, task["request"]):
            part[f"key {len(part)}"] = "new"
        task.setdefault("details", deque()).append("a line")


class Progress(BaseModel):
    """A value in a task; while it is written, the task goes on."""

    @model_serializer
    def written(self) -> str:
        go_on()
        return "written"


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """The only task there is: a training, a batch and a scoring, each with a process that runs."""
    progress = Progress()
    task = {
        "id": "7",
        "status": "RUNNING",
        "request": {"model": "oneprompt", "progress": progress, "device": "cpu"},
        "details": deque([progress, "the last line"]),
        "start_ts": "2026-01-01 00:00:00",
    }
    kinds = ("train", "batch_infer", "scoring")
    process = SimpleNamespace(pid=1, kill=lambda: None)
    monkeypatch.setattr(processes, "background_tasks", {kind: [task] for kind in kinds})
    monkeypatch.setattr(processes, "background_processes", {kind: {"7": process} for kind in kinds})
    monkeypatch.setattr(
        processes, "background_executors", dict.fromkeys(kinds, SimpleNamespace(submit=lambda *_: None))
    )
    monkeypatch.setattr(processes.psutil, "Process", lambda pid: SimpleNamespace(children=lambda recursive: []))
    app = SimpleNamespace(info=lambda: {"config": {}}, bundle_path=lambda model: None)
    monkeypatch.setattr("monailabel.utils.async_tasks.task.app_instance", lambda: app)
    return task


@pytest.mark.parametrize(
    "ask",
    [
        lambda: AsyncTask.run("train", {"model": "oneprompt"}, enqueue=True),
        lambda: AsyncTask.status("train"),
        lambda: AsyncTask.status("train", all=True),
        lambda: AsyncTask.status("train", check_if_running=True),
        lambda: AsyncTask.stop("train"),
        lambda: tasks("train"),
    ],
    ids=["run", "status", "all", "running", "stop", "tasks"],
)
def test_an_answer_stays_as_the_task_was_when_it_was_given(ask):
    answer = ask()
    given = copy.deepcopy(answer)
    go_on()
    assert answer == given


@pytest.mark.parametrize(
    ("path", "query"), [("/train/", ""), ("/train/", "all=true"), ("/batch/infer", ""), ("/scoring/", "")]
)
def test_a_task_that_changes_while_it_is_written_is_answered_as_it_was(task, path, query):
    server, router = FastAPI(), own_router(FakeApp(), None)
    add_stock_routes(router)
    server.include_router(router)
    status, answer = get(server, path, query)
    assert status == 200
    [answer] = answer if query else [answer]
    assert answer == {
        "id": "7",
        "status": "RUNNING",
        "start_ts": "2026-01-01 00:00:00",
        "request": {"model": "oneprompt", "progress": "written", "device": "cpu"},
        "details": ["written", "the last line"],
    }
    assert "a line" in task["details"]  # it did change
