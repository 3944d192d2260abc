"""The log over HTTP: whole, as text, and for whoever sits at the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import Request
from fastapi.routing import APIRoute, APIRouter
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from infers.errors import ClientError, NotFound
from infers.guards import check_reader
from infers.patches import log_routes


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, APIRoute]:
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(tmp_path))
    router = APIRouter()
    log_routes.add_logs(router)
    return {route.path: route for route in router.routes if isinstance(route, APIRoute)}


def told(route: APIRoute, **query: object) -> str:
    answer = route.endpoint(user=User(username="anna", roles=[]), **query)
    assert answer.media_type == "text/plain"
    assert int(answer.headers["content-length"]) == len(answer.body)
    return bytes(answer.body).decode()


def test_the_log_is_told_as_text_whatever_is_in_it_and_however_much_is_asked_for(
    routes: dict[str, APIRoute], tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"app\.log"):
        told(routes["/logs/"])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_bytes(b"<script>\none\n\xff two\n")
    assert told(routes["/logs/"]) == "<script>\none\n\ufffd two\n"
    assert told(routes["/logs/"], lines=1) == "\ufffd two\n"
    for all_lines in (0, -7, 10**9):
        assert told(routes["/logs/"], lines=all_lines) == "<script>\none\n\ufffd two\n"


def test_a_machine_without_gpus_says_so(routes: dict[str, APIRoute], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="nvidia-smi"):
        told(routes["/logs/gpu"])
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho one GPU\n")
    program.chmod(0o755)
    assert told(routes["/logs/gpu"]) == "one GPU\n"


def test_others_on_the_network_are_told_nothing(routes: dict[str, APIRoute]) -> None:
    for route in routes.values():
        assert next(one.call for one in route.dependant.dependencies) is check_reader
    with pytest.raises(ClientError) as refused:
        check_reader(Request({"type": "http", "client": ("10.0.0.7", 1), "headers": []}))
    assert refused.value.status == 403
