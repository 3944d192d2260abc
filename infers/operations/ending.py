"""An end in order: who waits is sent away with words, the job stops after its batch, a training after its last epoch.

Nothing would be lost without it, as nothing is by a kill; but people would wait for answers that never come, and
masks and epochs would be made twice.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

logger = logging.getLogger(__name__)

ANSWERS = 30  # seconds that requests under way may take


def end_in_order(at_once: Callable[[], object], then: Sequence[Callable[[], object]]) -> bool:
    """When this process is asked to end (SIGTERM, Ctrl-C), do something before uvicorn ends it; a second signal ends it
    as uvicorn does.

    Args:
        at_once: called on the event loop that runs now.
        then: called in a thread, one after the other, before requests under way are waited for.

    Returns:
        False where this thread is not the one that uvicorn serves in, and nothing was changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    loop = asyncio.get_running_loop()
    changed = False
    for number in (signal.SIGTERM, signal.SIGINT):
        uvicorns = signal.getsignal(number)
        server = getattr(uvicorns, "__self__", None)
        if isinstance(server, uvicorn.Server):
            server.config.timeout_graceful_shutdown = server.config.timeout_graceful_shutdown or ANSWERS
            signal.signal(number, _Ending(loop, at_once, then, uvicorns))
            changed = True
    return changed


class _Ending:
    """A handler of a signal, which goes on to uvicorn's when it has done its own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, at_once: Callable[[], object], then: Sequence[Callable[[], object]],
        uvicorns: Any,
    ) -> None:  # fmt: skip
        self._loop, self._at_once, self._then, self._uvicorns = loop, at_once, then, uvicorns
        self._called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._called:
            self._uvicorns(number, frame)
            return
        self._called = True
        logger.info("this server ends")
        self._loop.call_soon_threadsafe(self._at_once)
        threading.Thread(target=functools.partial(self._run, number), name="ending").start()

    def _run(self, number: int) -> None:
        for act in self._then:
            try:
                act()
            except Exception:  # it must end whatever fails
                logger.exception("this was left as it is")
        self._uvicorns(number, None)
