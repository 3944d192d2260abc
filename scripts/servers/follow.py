"""Waits for the server's background job, with a progress bar."""

import time
from collections.abc import Collection
from typing import Protocol

from tqdm import tqdm

from scripts.servers.client import Client, ServerError

_POLL = 0.2  # seconds
_OVER = ("automatic", "failed")


class Process(Protocol):
    """The part of a server that is asked for here."""

    def check(self) -> None: ...

    def log_tail(self, lines: int = 20) -> str: ...


def follow_job(client: Client, server: Process, waiting: Collection[str], patience: float) -> dict[str, float]:
    """Waits until each of these studies has its automatic mask; returns the seconds that each took.

    The job takes one study after the other, so a study's time runs from the end of the one before.

    Raises:
        ServerError: the server died, the job failed or was cancelled, a study failed, or `patience` seconds passed
            without a study being finished.
    """
    seconds: dict[str, float] = {}
    last = time.monotonic()
    with tqdm(total=len(waiting), unit="study", desc="segmenting", leave=False) as bar:
        while len(seconds) < len(waiting):
            server.check()
            status = client.status()
            states = status["studies"]
            new = [id for id in waiting if id not in seconds and states.get(id, {}).get("status") in _OVER]
            now = time.monotonic()
            if new:
                seconds.update(dict.fromkeys(new, (now - last) / len(new)))
                bar.update(len(new))
                last = now
            elif status["job"]["state"] in ("failed", "cancelled"):
                raise ServerError(
                    f"the job {status['job']['state']}. The end of the server's log:\n{server.log_tail()}"
                )
            elif now - last > patience:
                raise ServerError(f"no study was finished within {patience:g} s; the job: {status['job']}")
            else:
                time.sleep(_POLL)
    failed = {id: states[id].get("reason", "no reason given") for id in waiting if states[id]["status"] == "failed"}
    if failed:
        raise ServerError("the server could not segment " + "; ".join(f"{id}: {why}" for id, why in failed.items()))
    return seconds
