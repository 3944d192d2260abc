"""Who waits for what: requests that compute or read files stand in line on the event loop, and hold no thread there.

MONAI Label's routes as threads would let two hundred clicks hold every thread, those of clients who have long gone
included, so that nobody is even told that the server lives. Here a line is bounded and says so (429, 503), its clients
take turns, and who hung up neither waits nor is computed for.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import typing
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from infers.errors import Busy, ClientGone
from infers.serving.clients import Client, serving
from lib.inference.control import Cancelled

LOOK = 1.0  # seconds between looks whether a client is still there
HTTP = "http"  # name of the parameter that an endpoint gets where it asks for no request itself
STANDSTILL = 100.0  # seconds in which nobody's turn ends, after which nobody is told to wait on


class Line:
    """Turns for one kind of request.

    Args:
        at_once: how many run together.
        waiting: how many may stand in line.
        each: how many of one client may.
        standstill: seconds in which no turn ends, after which who waited for all of them is sent away. While the line
            moves a place in it is worth more than a later one, and how long to wait is the client's to say.
        look: seconds between looks whether a client is still there.
    """

    def __init__(
        self, at_once: int, waiting: int, each: int, *, standstill: float = STANDSTILL, look: float = LOOK
    ) -> None:
        self._at_once, self._most, self._each, self._standstill, self._look = at_once, waiting, each, standstill, look
        self.running = 0
        self._closed = False
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._seconds = 1.0  # that a turn took lately
        self._moved = 0.0  # when the last turn ended

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, client: str, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        """Wait for a turn and have it.

        Args:
            client: those of one client stand behind each other, and clients take turns.
            gone: whether it hung up.

        Raises:
            Busy: the line is full, or did not move.
            ClientGone: nobody waits for this any more.
        """
        await self._enter(client, gone)
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)
            self._leave()

    def close(self) -> None:
        """Send away who waits and who comes, with a 503; who has a turn may end it. Called on the event loop."""
        self._closed = True
        for queue in self._queues.values():
            for future in queue:
                future.set_exception(_ending())
        self._queues.clear()

    async def _enter(self, client: str, gone: Callable[[], Awaitable[bool]]) -> None:
        if self._closed:
            raise _ending()
        if self.running < self._at_once and not self._queues:
            self.running += 1
            return
        queue = self._queues.setdefault(client, deque())
        if len(queue) >= self._each:
            raise self._busy(429, f"{len(queue)} requests of this client wait already")
        if self.waiting >= self._most:
            raise self._busy(503, f"{self.waiting} requests wait already")
        future = asyncio.get_running_loop().create_future()
        queue.append(future)
        came = time.monotonic()
        try:
            while not (await asyncio.wait({future}, timeout=self._look))[0]:
                if await gone():
                    raise ClientGone
                if time.monotonic() - max(came, self._moved) > self._standstill:
                    raise self._busy(503, f"no turn ended for {self._standstill:g} seconds")
            future.result()
            if await gone():
                raise ClientGone
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._leave()
            else:
                self._forget(client, future)
            raise

    def _forget(self, client: str, future: asyncio.Future[None]) -> None:
        future.cancel()
        with suppress(KeyError, ValueError):
            self._queues[client].remove(future)
            if not self._queues[client]:
                del self._queues[client]

    def _leave(self) -> None:
        self.running -= 1
        self._moved = time.monotonic()
        while self.running < self._at_once and self._queues:
            client, queue = self._queues.popitem(last=False)
            future = queue.popleft() if queue else None
            if queue:
                self._queues[client] = queue  # behind the others
            if future is not None and not future.cancelled():
                future.set_result(None)
                self.running += 1

    def _busy(self, status: int, why: str) -> Busy:
        for client in [client for client, queue in self._queues.items() if not queue]:
            del self._queues[client]
        wait = round(self._seconds * (self.waiting + 1) / self._at_once)
        return Busy(f"the server is busy ({why}): try again in a moment", status, min(max(wait, 1), 60))


def _ending() -> Busy:
    return Busy("the server ends: send this again when it is back; nothing of it was saved", 503, 30)


class Lines:
    """The lines of one server: for answers of the network, and for what reads or writes files.

    Args:
        check: called in the thread of a request when it is its turn, and when it was done; raises what keeps it from
            being answered.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.network = Line(at_once=2, waiting=100, each=60)
        self.files = Line(at_once=12, waiting=300, each=200)
        self.check = check

    def close(self) -> None:
        """Send away who waits and who comes: the server ends. Called on the event loop."""
        self.network.close()
        self.files.close()

    def of(self, path: str, methods: typing.Collection[str]) -> Line | None:
        """The line of a route; None for what is answered from memory."""
        if path.endswith("/infer/{model}") and "/batch/" not in path and "POST" in methods:
            return self.network
        light = ("/info/", "/oneprompt/status", "/oneprompt/health", "/oneprompt/metrics", "/train/", "/batch/infer")
        return None if path.endswith(light) and "GET" in methods else self.files


def in_line(line: Line, endpoint: Callable[..., Any], check: Callable[[], None] = lambda: None) -> Callable[..., Any]:
    """A coroutine function, as FastAPI takes it, that runs a plain endpoint between two calls of `check` in a thread
    when it is its turn: what was written while a folder went away must not be taken for saved."""

    def checked(**arguments: Any) -> Any:
        check()
        try:
            return endpoint(**arguments)
        finally:  # what failed meanwhile failed for that reason: no label is unknown, and no file is broken
            check()

    hints = typing.get_type_hints(endpoint, include_extras=True)
    request_name = next((name for name, hint in hints.items() if hint is Request), None)  # FastAPI gives only one

    async def run(**arguments: Any) -> Any:
        http: Request = arguments[request_name] if request_name else arguments.pop(HTTP)
        user = getattr(arguments.get("user"), "username", "")
        key = f"{http.client.host if http.client else ''} {user}"
        async with line.turn(key, http.is_disconnected):
            client = Client()
            watch = asyncio.create_task(_watch(http, client))
            try:
                with serving(client):
                    return await run_in_threadpool(checked, **arguments)
            except Cancelled as error:
                raise ClientGone from error
            finally:
                watch.cancel()

    own = [one.replace(annotation=hints.get(one.name, one.annotation), kind=inspect.Parameter.KEYWORD_ONLY)
           for one in inspect.signature(endpoint).parameters.values()]  # fmt: skip
    added = [] if request_name else [inspect.Parameter(HTTP, inspect.Parameter.KEYWORD_ONLY, annotation=Request)]
    functools.update_wrapper(run, endpoint)
    vars(run).pop("__wrapped__")  # FastAPI would look through it
    signature = inspect.Signature([*added, *own], return_annotation=hints.get("return", inspect.Signature.empty))
    vars(run).update(__signature__=signature, line=line)
    return run


async def _watch(http: Request, client: Client) -> None:
    """Tell the work when its client hung up."""
    while True:
        await asyncio.sleep(LOOK)
        if await http.is_disconnected():
            client.leave()
            return
