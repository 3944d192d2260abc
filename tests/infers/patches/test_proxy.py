import asyncio
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import requests
from fastapi import APIRouter, FastAPI
from monailabel.config import settings

from infers.errors import ClientError, NotFound, ServerUnreachable
from infers.patches.proxy import _send, add_proxy, address, is_google


class Recorder(BaseHTTPRequestHandler):
    """A DICOMweb server that notes what it is asked and answers with a few bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("content-length") or 0)
        self.server.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        odd = {"missing": 404, "elsewhere": 302, "unheard": 999}
        status = next((status for word, status in odd.items() if word in self.path), 200)
        self.send_response(status)
        if status == 302:
            self.send_header("location", f"http://localhost:{self.server.server_port}/somewhere")
        self.send_header("content-type", "application/dicom+json")
        self.send_header("content-length", "4")
        self.send_header("set-cookie", "of=the server's own")
        self.send_header("etag", "a\x1bb" if "control" in self.path else '"a"')
        self.end_headers()
        self.wfile.write(b"[{}]")

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def pacs(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", f"http://127.0.0.1:{server.server_port}/dicom-web/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stored():
    return []


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def ask(pacs, stored):
    """Asks the proxy as a server would."""
    router, app = APIRouter(), FastAPI()
    add_proxy(router, lambda: stored.append(True))
    app.include_router(router)

    def ask(method, path, query="", headers=None, body=b""):
        sent, asked = [], [{"type": "http.request", "body": body}]
        named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": named}

        async def receive():
            return asked.pop() if asked else await asyncio.Event().wait()  # the client stays

        async def send(message):
            sent.append(message)

        asyncio.run(app({**scope, "server": ("app", 80), "scheme": "http"}, receive, send))
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))

    return ask


def test_a_search_keeps_its_query_as_it_was_written(ask, pacs):
    query = "PatientName=*a%20b*&limit=101&includefield=00081030%2C00080060"
    answer = ask("GET", "/proxy/dicom/qido/studies", query)
    assert (answer.status, answer.body) == (200, b"[{}]")
    assert answer.headers["content-type"] == "application/dicom+json"
    assert pacs.seen[0][:2] == ("GET", f"/dicom-web/studies?{query}")


def test_only_headers_about_the_content_go_on_and_the_servers_own_password(ask, pacs, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "reader")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    headers = {"accept": "multipart/related", "authorization": "Bearer of-this-app", "cookie": "a=b"}
    ask("GET", "/proxy/dicom/wado/studies/1/series/2", headers=headers)
    sent = {name.lower(): value for name, value in pacs.seen[0][2].items()}
    assert sent["accept"] == "multipart/related"
    assert sent["authorization"] == requests.auth._basic_auth_str("reader", "secret")
    assert "cookie" not in sent


def test_what_is_stored_arrives_whole_and_is_told(ask, pacs, stored):
    content = bytes(range(256)) * 50
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    answer = ask("POST", "/proxy/dicom/wado/studies", headers={"content-type": kind}, body=content)
    assert answer.status == 200
    method, path, headers, body = pacs.seen[0]
    assert (method, path, body) == ("POST", "/dicom-web/studies", content)
    assert headers["content-type"] == kind
    assert stored == [True]


def test_a_refusal_of_the_server_is_passed_back_and_nothing_was_stored(ask, stored):
    assert ask("POST", "/proxy/dicom/stow/missing", body=b"x").status == 404
    assert stored == []


def test_headers_about_the_content_alone_are_passed_back(ask):
    told = ask("GET", "/proxy/dicom/wado/studies/1").headers
    assert told == {"content-type": "application/dicom+json", "content-length": "4", "etag": '"a"'}


def test_what_http_does_not_have_is_not_passed_back(ask):
    with pytest.raises(ServerUnreachable, match="answered with 999"):
        ask("GET", "/proxy/dicom/wado/unheard")
    assert "etag" not in ask("GET", "/proxy/dicom/wado/control").headers


def test_services_have_their_prefixes_and_metadata_is_retrieved(pacs, monkeypatch):
    root = settings.MONAI_LABEL_STUDIES.rstrip("/")
    assert address("qido", "studies") == f"{root}/studies"
    assert address("", "studies/1 2") == f"{root}/studies/1%202"
    monkeypatch.setattr(settings, "MONAI_LABEL_QIDO_PREFIX", "rs")
    monkeypatch.setattr(settings, "MONAI_LABEL_WADO_PREFIX", "wado")
    assert address("qido", "studies") == f"{root}/rs/studies"
    assert address("qido", "studies/1/metadata") == f"{root}/wado/studies/1/metadata"


@pytest.mark.parametrize("path", ["../instances", "studies/../../system", "studies/..\\..\\system"])
def test_no_path_leads_out_of_the_dicomweb_root(pacs, path):
    with pytest.raises(ClientError, match="below its root"):
        address("qido", path)


def test_a_folder_of_studies_has_no_dicomweb(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "/some/folder")
    with pytest.raises(NotFound, match="--studies http://"):
        address("qido", "studies")


def test_a_server_that_is_not_there_is_named(ask, pacs, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "http://127.0.0.1:9/dicom-web")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9.*see that it runs"):
        ask("GET", "/proxy/dicom/qido/studies")


def test_no_redirect_is_followed_with_the_servers_password(pacs, stored, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "u")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "p")
    request = SimpleNamespace(method="GET", headers={}, url=SimpleNamespace(query=""))
    with pytest.raises(ServerUnreachable, match="points to 'http://localhost"):
        _send(request, address("", "elsewhere"), b"")
    assert [path for _, path, _, _ in pacs.seen] == ["/dicom-web/elsewhere"]


@pytest.mark.parametrize(("target", "google"), [
    ("https://healthcare.googleapis.com/v1/dicomWeb/studies", True), ("https://googleapis.com/x", True),
    ("https://pacs.example/googleapis.com/studies", False), ("https://googleapis.com.evil.example/", False),
    ("http://healthcare.googleapis.com/v1", False), ("https://pacs.example/?x=.googleapis.com", False),
])  # fmt: skip
def test_tokens_are_for_their_own_host_alone(target, google):
    assert is_google(target) == google
