"""Which requests come in at all; asked as a server would ask, before an app that says what reached it."""

import asyncio

import pytest
from fastapi import FastAPI, Request
from monailabel.config import settings

from infers.api.door import Door
from infers.limits import MB, Limits

SERVER = ("10.0.0.7", 8000)


def ask(headers, method="GET", chunks=(b"",), kind="http", stall=60.0, silent=False, answered=lambda *_: None):
    """Status of the answer to a request, and all that was sent."""
    inner = FastAPI()

    @inner.api_route("/x", methods=["GET", "POST", "OPTIONS"])
    async def body_length(request: Request):
        return {"detail": len(await request.body())}

    limits = Limits(upload=2 * MB, json=MB)
    door = Door(inner, hosts=("ward.example",), limits=limits, answered=answered, stall=stall)
    pieces = list(chunks)
    sent = []

    async def receive():
        if silent:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "method": method, "path": "/x", "query_string": b"", "headers": raw, "server": SERVER}
    asyncio.run(door(scope, receive, send))
    return sent[0].get("status", sent[0]["type"]), sent


def status(host, method="GET", **headers):
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return ask([("host", host), *named], method)[0]


@pytest.mark.parametrize("host", [
    "127.0.0.1:8000", "localhost:9000", "localhost.", "LOCALHOST", "[::1]:8000", "127.9.9.9", "10.0.0.7",
    "10.0.0.7:8000", "ward.example", "WARD.example:443",
])  # fmt: skip
def test_the_servers_own_addresses_are_answered(host):
    assert status(host) == status(host, "POST") == 200


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:8000", "localhost.evil.example", "evil.localhost", "127.0.0.1.evil.example",
    "0.0.0.0", "10.0.0.8", "[::2]", "", "ward.example@evil.example", "ward.example evil.example", "127.0.0.1:80:80",
    "[::1", "2130706433",
])  # fmt: skip
def test_a_name_that_a_stranger_may_own_is_not_answered_whatever_the_method(host):
    # A page at that name would be of the same origin as the server, and its browser says so truthfully
    for method in ("GET", "POST", "OPTIONS"):
        got, sent = ask([("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")], method)
        assert got == 421
        assert b"--conf hosts" in sent[1]["body"]


def test_without_a_host_or_with_two_nothing_is_answered():
    assert ask([])[0] == 421
    assert ask([("host", "localhost"), ("host", "evil.example")])[0] == 421


def test_a_web_socket_passes_the_same_door():
    assert ask([("host", "evil.example")], kind="websocket")[1] == [{"type": "websocket.close", "code": 1008}]
    answer = ask([("host", "localhost"), ("origin", "http://evil.example")], kind="websocket")[1]
    assert answer == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("headers", [
    {}, {"sec_fetch_site": "same-origin", "origin": "https://proxy.example"}, {"origin": "http://10.0.0.7:8000"},
    {"origin": "http://localhost:3000", "sec_fetch_site": "cross-site"}, {"origin": "https://ward.example"},
    {"origin": "http://[::1]:3000"},
])  # fmt: skip
def test_programs_the_own_pages_and_this_machine_may_change_something(headers):
    assert status("10.0.0.7:8000", "POST", **headers) == 200


FOREIGN = [
    {"origin": "https://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}, {"origin": "http://["},
    {"origin": "https://evil.example", "sec_fetch_site": "cross-site"}, {"origin": "http://10.0.0.7:9999"},
    {"origin": "file://localhost"}, {"origin": "http://ward.example.evil.example", "sec_fetch_site": "same-site"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_may_not(headers):
    assert status("10.0.0.7:8000", "POST", **headers) == 403
    assert status("10.0.0.7:8000", "GET", **headers) == 200  # whose answer their browser keeps from them


def test_with_origins_configured_pages_of_this_machine_are_strangers_too(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_CORS_ORIGINS", ["https://viewer.example/"])
    assert status("localhost:8000", "POST", origin="https://viewer.example") == 200
    assert status("localhost:8000", "POST", origin="http://localhost:3000") == 403


LOCAL = ("host", "localhost")


def test_a_body_beyond_the_limit_is_refused_before_and_while_it_comes_in():
    for headers, limit in (([], 1), ([("content-type", "multipart/form-data; boundary=x")], 2)):
        headers = [LOCAL, *headers]
        assert ask(headers, "POST", [b"x" * MB] * limit)[0] == 200
        assert ask([*headers, ("content-length", str(limit * MB + 1))], "POST")[0] == 413
        got, sent = ask(headers, "POST", [b"x" * MB] * limit + [b"x"])
        assert got == 413
        assert f"may send {limit} MB" in str(sent[1]["body"])


def test_a_body_that_stands_still_is_given_up():
    assert ask([LOCAL], "POST", silent=True, stall=0.01)[0] == 408


def test_every_answer_is_kept_from_other_sites_and_from_guessing():
    headers = dict(ask([LOCAL])[1][0]["headers"])
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cross-origin-resource-policy"] == b"same-site"


def test_every_answer_has_an_id_and_is_told_by_its_route_never_by_its_address():
    told = []
    start = ask([LOCAL], answered=lambda *answer: told.append(answer))[1][0]
    ask([("host", "evil.example")], answered=lambda *answer: told.append(answer))
    assert [answer[:3] for answer in told] == [("GET", "/x", 200), ("GET", "other", 421)]
    assert dict(start["headers"])[b"x-request-id"].decode() == told[0][4] != told[1][4]
