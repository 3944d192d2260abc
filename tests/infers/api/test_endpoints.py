"""The app's own endpoints, asked as the server would ask them, before an app that only notes what reaches it."""

import asyncio
import json
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.utils.async_tasks import utils as processes
from requests_toolbelt import MultipartEncoder

from infers.api.routes import install
from infers.errors import ClientError
from tests.infers.api.fakes import (
    FakeApp,
    FakeArchives,
    FakeImages,
    FakeInference,
    FakeLabels,
    FakePublishing,
    FakeSessions,
)

LOOKS, SAVES = settings.MONAI_LABEL_AUTH_ROLE_USER, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def detail(self):
        return json.loads(self.body)["detail"]


class Server:
    """MONAI Label's server with this app's routes, for one person with these roles."""

    def __init__(self, app, *roles):
        self._server = FastAPI()
        with pytest.MonkeyPatch.context() as patch:  # the limit of threads belongs to a running event loop
            patch.setattr("anyio.to_thread.current_default_thread_limiter", lambda: SimpleNamespace())
            install(self._server, app, FakeSessions())
        self._token = " ".join(roles)

    def ask(self, method, path, query=None, fields=None):
        sent, form = [], MultipartEncoder(fields or {"none": ""})
        asked = [{"type": "http.request", "body": form.to_string()}]
        scope = {"type": "http", "method": method, "path": path, "scheme": "http", "server": ("app", 80)}
        headers = [(b"host", b"app"), (b"content-type", form.content_type.encode())]
        query_string = urlencode({**(query or {}), "token": self._token}).encode()

        async def receive():
            return asked.pop() if asked else await asyncio.Event().wait()  # the client stays

        async def send(message):
            sent.append(message)

        asyncio.run(self._server({**scope, "query_string": query_string, "headers": headers}, receive, send))
        return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
def login(monkeypatch):
    """Logins are asked for; a token says the roles."""
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth, "from_token", lambda token: auth.User(username="uma", roles=token.split()))


@pytest.fixture
def app():
    return FakeApp(inference=FakeInference(lambda: {"file": None, "params": {"made": True}}))


@pytest.fixture
def requests(app):
    """What the app was asked to infer."""
    return app.inference.requests


def click(server, **params):
    return server.ask(
        "POST", "/infer/oneprompt_click", {"image": "s0", "output": "json"}, {"params": json.dumps(params)}
    )


@pytest.mark.parametrize("marked", [True, "true", 1])
def test_who_may_only_look_cannot_have_a_result_saved_as_a_label(login, app, requests, marked):
    answer = click(Server(app, LOOKS), use_as_template=marked)
    assert answer.status == 403
    assert f"use_as_template, which saves a label, needs the role {SAVES}" in answer.detail
    assert requests == []


def test_who_may_only_look_can_click_without_saving(login, app, requests):
    assert click(Server(app, LOOKS), use_as_template=False).status == 200
    assert len(requests) == 1


def test_a_result_that_an_annotator_marks_comes_with_the_name_of_the_login(login, app, requests):
    assert click(Server(app, LOOKS, SAVES), use_as_template=True, user="somebody else").status == 200
    assert requests[0]["user"] == "uma"


def test_without_logins_everybody_may_mark_a_result(app, requests):
    assert click(Server(app), use_as_template=True).status == 200
    assert len(requests) == 1


def test_who_may_only_look_cannot_store_a_label_through_the_proxy(login, app, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "/some/folder")
    looks, saves = Server(app, LOOKS), Server(app, SAVES)
    answer = looks.ask("POST", "/proxy/dicom/stow/studies")
    assert answer.status == 403
    assert SAVES in answer.detail
    for server, method in ((looks, "GET"), (saves, "POST")):  # refused only because there is no DICOMweb server
        assert server.ask(method, "/proxy/dicom/stow/studies").status == 404


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, only for the app's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [path.name for path in tmp_path.glob("oneprompt-*")]


def refuse():
    raise ClientError("refused")


LABEL = ("label.nii.gz", b"content")


@pytest.mark.parametrize(
    ("method", "path", "query", "field"),
    [
        ("PUT", "/datastore/label", {"image": "s0"}, "label"),
        ("PUT", "/datastore/image", {"image": "s0"}, "file"),
        ("PUT", "/model/oneprompt", {}, "file"),
        ("POST", "/infer/oneprompt_click", {"image": "s0"}, "label"),
        ("POST", "/infer/oneprompt_click", {}, "file"),
        ("POST", "/infer/oneprompt_click", {"session_id": "s"}, "label"),
    ],
)
def test_an_upload_leaves_no_file_whether_it_is_taken_or_refused(temporary, method, path, query, field):
    seen = []

    def take():
        seen.append(temporary())
        return {"file": None, "params": {}}

    for act, status in ((take, 200), (refuse, 400)):
        app = FakeApp(FakeLabels(act), FakeImages(act), FakeInference(act), FakePublishing(act))
        assert Server(app).ask(method, path, {**query, "output": "json"}, {field: LABEL}).status == status
        assert temporary() == []
    assert [len(names) for names in seen] == [1]


@pytest.mark.parametrize("output", ["dicom_seg", "rtstruct"])
def test_a_result_that_cannot_be_given_as_dicom_leaves_no_file(temporary, tmp_path, output):
    result = tmp_path / "oneprompt-result.nii.gz"
    result.touch()
    app = FakeApp(inference=FakeInference(lambda: {"file": str(result), "params": {}}, refuse))
    query = {"image": "s0", "output": output}
    assert Server(app).ask("POST", "/infer/oneprompt", query).status == 400
    assert temporary() == []


@pytest.mark.parametrize("output", ["dicom_seg", "rtstruct"])
def test_another_volume_is_not_given_as_dicom_that_refers_to_the_first(app, requests, output):
    query = {"image": "s0", "output": output, "frame": "1"}
    answer = Server(app).ask("POST", "/infer/oneprompt", query)
    assert answer.status == 400
    assert "refers to the first volume" in answer.detail
    assert requests == []


def test_a_downloaded_dataset_leaves_no_file(temporary, tmp_path):
    archive = tmp_path / "oneprompt-1.zip"
    archive.write_bytes(b"PK")
    answer = Server(FakeApp(datastore=FakeArchives(archive))).ask("GET", "/datastore/dataset")
    assert (answer.status, answer.body) == (200, b"PK")
    assert temporary() == []


def test_the_training_that_runs_is_told_and_not_the_one_that_waits(monkeypatch):
    def waiting(name, status):
        return {"id": name, "status": status}

    trainings = []
    monkeypatch.setattr(processes, "background_tasks", {"train": trainings})
    server = Server(FakeApp())
    assert server.ask("GET", "/train/").status == 404
    trainings += [waiting("a", "DONE"), waiting("b", "RUNNING"), waiting("c", "SUBMITTED")]
    assert json.loads(server.ask("GET", "/train/").body)["id"] == "b"  # 3D Slicer takes any other for the end
    assert [task["id"] for task in json.loads(server.ask("GET", "/train/", {"all": "true"}).body)] == ["a", "b", "c"]
    trainings[1]["status"] = "DONE"
    assert json.loads(server.ask("GET", "/train/").body)["id"] == "c"


def test_a_request_of_another_form_is_refused_in_a_sentence(app):
    answer = Server(app).ask("GET", "/oneprompt/studies", {"page": "0"})
    assert (answer.status, answer.detail) == (422, "page: input should be greater than or equal to 1, got '0'")
    answer = Server(app).ask("PUT", "/datastore/label", {"image": "s0"})
    assert (answer.status, answer.detail) == (422, "label is missing: send it in the request's body")
