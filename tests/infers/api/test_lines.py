"""Who waits for what, and who is sent away: lines as the server's event loop runs them."""

import asyncio
import errno
import threading
from types import SimpleNamespace
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request

from infers.api.lines import Line, Lines, in_line
from infers.api.routes import _answer
from infers.errors import Busy, ClientError, ClientGone
from infers.serving.clients import client_control


async def here():
    return False


async def nobody():
    return True


async def settled():
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Visitors:
    """Requests that stand in a line, and the order in which they had their turns."""

    def __init__(self, line):
        self.line, self.order, self.ends, self.tasks = line, [], {}, {}

    def come(self, name, client="a", gone=here):
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(name, client, gone))
        return self.tasks[name]

    async def _visit(self, name, client, gone):
        async with self.line.turn(client, gone):
            self.order.append(name)
            await self.ends[name].wait()

    async def leave(self, *names):
        for name in names:
            self.ends[name].set()
            await self.tasks[name]
            await settled()


def test_clients_take_turns_and_each_is_served_in_its_order():
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=9, each=9))
        for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")):
            visitors.come(name, client)
            await settled()
        await visitors.leave("a1", "a2", "b1", "c1", "a3", "b2", "a4")
        assert visitors.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
        assert (visitors.line.running, visitors.line.waiting) == (0, 0)

    asyncio.run(run())


def test_a_full_line_says_so_and_when_to_try_again():
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=3, each=2))
        for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a")):
            visitors.come(name, client)
        await settled()
        with pytest.raises(Busy) as own:
            await visitors.come("a4", "a")
        visitors.come("b1", "b")
        await settled()
        with pytest.raises(Busy) as all_together:
            await visitors.come("c1", "c")
        assert (own.value.status, all_together.value.status) == (429, 503)
        assert 1 <= own.value.retry_after <= 60
        await visitors.leave("a1", "a2", "b1", "a3")
        assert (visitors.line.running, visitors.line.waiting) == (0, 0)

    asyncio.run(run())


def test_when_the_server_ends_who_waits_and_who_comes_is_sent_away_and_who_has_a_turn_ends_it():
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=9, each=9))
        for name in ("a1", "a2", "a3"):
            visitors.come(name)
        await settled()
        visitors.line.close()
        for task in (visitors.tasks["a2"], visitors.tasks["a3"], visitors.come("a4")):
            with pytest.raises(Busy, match="the server ends") as sent_away:
                await task
            assert sent_away.value.status == 503
        await visitors.leave("a1")
        assert (visitors.order, visitors.line.running, visitors.line.waiting) == (["a1"], 0, 0)

    asyncio.run(run())


def test_who_hung_up_loses_its_place_and_nobody_else_does():
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=9, each=9, look=0.01))
        visitors.come("a1")
        await settled()
        left = visitors.come("a2", gone=nobody)
        visitors.come("a3")
        with pytest.raises(ClientGone):
            await left
        await visitors.leave("a1", "a3")
        assert visitors.order == ["a1", "a3"]
        assert (visitors.line.running, visitors.line.waiting) == (0, 0)

    asyncio.run(run())


@pytest.fixture
def clock(monkeypatch):
    """The seconds that a line's clock shows, as a list of one."""
    now = [1000.0]
    monkeypatch.setattr("infers.api.lines.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_who_waits_in_a_line_that_stands_still_is_sent_away(clock):
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=9, each=9, look=0.01, standstill=100))
        visitors.come("a1")
        waits = visitors.come("a2")
        await settled()
        clock[0] += 101
        with pytest.raises(Busy, match="no turn ended for 100 seconds") as sent_away:
            await waits
        assert sent_away.value.status == 503
        await visitors.leave("a1")
        assert (visitors.line.running, visitors.line.waiting) == (0, 0)

    asyncio.run(run())


def test_who_waits_in_a_line_that_moves_keeps_the_place_however_slowly_it_moves(clock):
    async def run():
        looked = asyncio.Event()

        async def looks():
            looked.set()
            return False

        visitors = Visitors(Line(at_once=1, waiting=9, each=9, look=0.01, standstill=100))
        names = [f"a{number}" for number in range(6)]
        for name in names[:-1]:
            visitors.come(name)
            await settled()
        visitors.come(names[-1], gone=looks)
        for name in names:
            await settled()
            clock[0] += 60
            if name in names[:-2]:  # the last one waits, and is looked after
                looked.clear()
                look = asyncio.create_task(looked.wait())
                await asyncio.wait({look, visitors.tasks[names[-1]]}, return_when=asyncio.FIRST_COMPLETED)
            await visitors.leave(name)
        assert visitors.order == names

    asyncio.run(run())


def test_a_request_that_is_cancelled_in_line_gives_its_turn_on():
    async def run():
        visitors = Visitors(Line(at_once=1, waiting=9, each=9))
        first, second = visitors.come("a1"), visitors.come("a2")
        visitors.come("a3")
        await settled()
        visitors.ends["a1"].set()
        first.cancel()
        second.cancel()
        await settled()
        await visitors.leave("a3")
        assert visitors.order[-1] == "a3"
        assert (visitors.line.running, visitors.line.waiting) == (0, 0)

    asyncio.run(run())


def answered(app, gone=None):
    """Status, headers of a GET of /x, whose client hangs up when `gone` is set."""
    sent = []
    asked = [{"type": "http.request"}]

    async def receive():
        if asked:
            return asked.pop()
        while gone is None or not gone.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "query_string": b"number=1",
        "headers": [],
        "client": ("c", 1),
    }
    return app(scope, receive, send), sent


def server(line, endpoint):
    app = FastAPI()
    app.add_api_route("/x", in_line(line, endpoint))
    app.add_exception_handler(Busy, _answer)
    app.add_exception_handler(ClientGone, _answer)
    return app


def test_an_endpoint_in_line_keeps_its_parameters_and_runs_in_a_thread():
    def role(request: Request):
        return request.method

    def endpoint(request: Request, number: int, role: Annotated[str, Depends(role)]) -> dict:
        return {
            "number": number + 1,
            "role": role + request.method,
            "loop": threading.current_thread() is threading.main_thread(),
        }

    call, sent = answered(server(Line(1, 1, 1), endpoint))
    asyncio.run(call)
    assert (sent[0]["status"], sent[1]["body"]) == (200, b'{"number":2,"role":"GETGET","loop":false}')


def test_what_fails_while_the_study_folder_goes_away_is_answered_with_that_and_not_with_what_it_did_not_find():
    away = threading.Event()

    def check():
        if away.is_set():
            raise FileNotFoundError(errno.ENOENT, "another folder is in its place", "/studies/.oneprompt")

    def endpoint(number: int) -> None:
        away.set()
        raise ClientError("no such image", 404)

    app = FastAPI()
    app.add_api_route("/x", in_line(Line(1, 1, 1), endpoint, check))
    for kind in (ClientError, OSError):
        app.add_exception_handler(kind, _answer)
    call, sent = answered(app)
    asyncio.run(call)
    assert sent[0]["status"] == 503
    assert b"/studies cannot be reached (another folder is in its place)" in sent[1]["body"]


def test_work_ends_where_its_client_hung_up(monkeypatch):
    monkeypatch.setattr("infers.api.lines.LOOK", 0.01)
    gone, seen = threading.Event(), threading.Event()

    def endpoint(number: int) -> None:
        gone.set()
        control = client_control()
        while not control.stopped:
            seen.wait(0.01)
        control.advance(0.5)

    line = Line(1, 1, 1)
    call, sent = answered(server(line, endpoint), gone)
    asyncio.run(call)
    assert sent[0]["status"] == 499
    assert line.running == 0


def test_a_busy_server_answers_with_the_time_to_wait():
    line = Line(1, 0, 1)

    def endpoint(number: int) -> None: ...

    async def run():
        async with line.turn("other", here):
            call, sent = answered(server(line, endpoint))
            await call
        return sent[0]

    start = asyncio.run(run())
    assert start["status"] == 503
    assert int(dict(start["headers"])[b"retry-after"]) >= 1


def test_what_is_answered_from_memory_stands_in_no_line():
    lines = Lines()
    for path in ("/info/", "/oneprompt/status", "/train/"):
        assert lines.of(path, {"GET"}) is None
    assert lines.of("/infer/{model}", {"POST"}) is lines.network
    for path, method in (("/datastore/label", "PUT"), ("/train/", "POST"), ("/batch/infer/{model}", "POST")):
        assert lines.of(path, {method}) is lines.files
