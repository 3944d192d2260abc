"""How the server ends when it is asked to: in the order that loses nothing, and at once when it is asked again."""

import asyncio
import signal
import threading

import pytest
import uvicorn

from infers.operations.ending import ANSWERS, end_in_order
from tests.infers.fakes import wait_until


@pytest.fixture
def server():
    """A server of uvicorn's that has taken the signals over, as it has while an app is loaded."""
    server = uvicorn.Server(uvicorn.Config("no:app"))
    with server.capture_signals():
        yield server
        server._captured_signals.clear()  # or it would end this process as it was asked to


def test_who_waits_is_told_first_then_the_work_ends_and_then_the_server(server):
    order, may_end = [], threading.Event()

    def work():
        may_end.wait(60)
        order.append(("work", server.should_exit))
        raise OSError("the disk is away")  # which must keep nothing from ending

    async def run():
        assert end_in_order(lambda: order.append("lines"), (work, lambda: order.append("training")))
        signal.raise_signal(signal.SIGTERM)
        for _ in range(1000):
            if order:
                break
            await asyncio.sleep(0.01)
        assert (order, server.should_exit) == (["lines"], False)
        may_end.set()
        await asyncio.get_running_loop().run_in_executor(None, wait_until, lambda: server.should_exit)

    asyncio.run(run())
    assert order == ["lines", ("work", False), "training"]
    assert server.config.timeout_graceful_shutdown == ANSWERS


def test_a_second_signal_ends_it_at_once(server):
    never = threading.Event()

    async def run():
        end_in_order(lambda: None, (lambda: never.wait(60),))
        signal.raise_signal(signal.SIGTERM)
        assert not server.should_exit
        signal.raise_signal(signal.SIGTERM)
        assert server.should_exit
        never.set()

    asyncio.run(run())


def test_without_uvicorn_signals_stay_as_they_are():
    before = signal.getsignal(signal.SIGTERM)

    async def run():
        assert not end_in_order(lambda: None, ())

    asyncio.run(run())
    assert signal.getsignal(signal.SIGTERM) is before
