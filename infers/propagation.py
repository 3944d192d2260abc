"""The background job: segments every study that has no person's label, and does so again when the templates change.

A thread of the server, so it shares network and caches with the interactive tasks and lets them go first
(`infers/gate.py`). It keeps no list of what is to be done: after every study it asks `Studies.pending`, which derives
it from the datastore. So a label saved meanwhile is not lost, a killed server goes on where it stood, and running the
job twice does nothing twice.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from infers.errors import NotFound
from infers.gate import Gate
from infers.studies import Studies
from lib.predictor import Cancelled

logger = logging.getLogger(__name__)


ANOTHER_LOOK = 10.0  # seconds


class Superseded(Cancelled):
    """The templates changed while a study was being segmented: begin it again with the new ones."""


@dataclass(frozen=True)
class JobStatus:
    """What the job does. States: idle, running, cancelling, done, failed, cancelled; `run` counts the runs."""

    state: str = "idle"
    done: int = 0
    total: int = 0
    current: str | None = None
    failed: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    eta_seconds: float | None = None
    run: int = 0


class Propagation:
    """The job of one study list.

    Args:
        studies: what is to be done, and how.
        gate: turns at the network.
        lock_file: held while the job runs, so that two servers on one study list do not do the same work.
    """

    def __init__(self, studies: Studies, gate: Gate, lock_file: Path) -> None:
        self._studies, self._gate = studies, gate
        self._process_lock = FileLock(str(lock_file), thread_local=False)
        self._condition = threading.Condition()
        self._wanted = False
        self._cancelled = False
        self._news = 0  # counts triggers: a study that began before the newest one may have to begin again
        self._failed: dict[str, tuple[str, str]] = {}  # image id: (key it failed with, reason)
        self._status = JobStatus()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker; it waits until `trigger` is called."""
        self._thread = threading.Thread(target=self._work, name="propagation", daemon=True)
        self._thread.start()

    def trigger(self, *, resume: bool = True) -> JobStatus:
        """Say that there may be work; a run that is under way takes it in.

        Args:
            resume: also after somebody cancelled the job, and studies that failed are tried again; False for news that
                nobody asked for, such as a new file.
        """
        with self._condition:
            if resume or self._status.state not in ("cancelling", "cancelled"):
                self._wanted, self._cancelled = True, False
                self._failed = {} if resume else self._failed
                self._news += 1
                self._condition.notify_all()
            return self._status

    def cancel(self) -> JobStatus:
        """Stop the run that is under way after the batch it is at; what is done stays."""
        with self._condition:
            if self._status.state == "running" or self._wanted:
                self._wanted, self._cancelled = False, True
                self._status = replace(self._status, state="cancelling")
                self._condition.notify_all()
            return self._status

    def status(self) -> JobStatus:
        """What the job does now."""
        with self._condition:
            return self._status

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted or self._cancelled)
            try:
                with self._process_lock.acquire(timeout=0):
                    self._run()
            except Timeout:
                logger.info("another server process segments this study list; it is looked at again later")
                time.sleep(ANOTHER_LOOK)
            except Exception as error:
                logger.exception("the job stopped")
                self._wanted = False
                self._set(state="failed", current=None, eta_seconds=None, failed={"": f"the job stopped: {error}"})

    def _run(self) -> None:
        """Segment until nothing is left to do, or somebody cancels."""
        finished, started = 0, time.time()
        while True:
            with self._condition:
                self._wanted, news = False, self._news
                if self._cancelled:
                    self._cancelled = False
                    self._set(state="cancelled", current=None, eta_seconds=None)
                    return
            key = self._studies.key()
            reasons = {image_id: reason for image_id, (at, reason) in self._failed.items() if at == key}
            pending = self._studies.pending()
            todo = [image_id for image_id in pending if image_id not in reasons]
            done = self._studies.count_without_final() - len(pending)
            if not todo:
                if finished or self._status.state != "idle":  # a look that finds nothing to do is no run
                    state = "failed" if reasons and not done else "done"
                    self._set(state=state, done=done, total=done + len(reasons), current=None, eta_seconds=None,
                              failed=reasons)  # fmt: skip
                return
            eta = round((time.time() - started) / finished * len(todo), 1) if finished else None
            self._set(state="running", run=self._status.run + (not finished), started=started, done=done,
                      total=done + len(pending), current=todo[0], failed=reasons, eta_seconds=eta)  # fmt: skip
            if reason := self._segment(todo[0], key, news):
                self._failed[todo[0]] = (key, reason)
            finished += 1

    def _segment(self, image_id: str, key: str, news: int) -> str | None:
        """Segment one study and store its mask; returns why that failed, or None."""

        def between_batches(fraction: float) -> None:
            nonlocal news
            if self._cancelled:
                raise Cancelled("cancelled")
            if self._news != news:
                news = self._news
                if self._studies.key() != key:
                    raise Superseded("the templates changed")
            self._gate.give_way()

        try:
            image = self._studies.image(image_id)
            with self._gate.background():
                prediction = self._studies.segment(image_id, image, checkpoint=between_batches)
            self._studies.store_automatic(image_id, image, prediction)
        except (Cancelled, NotFound) as error:
            logger.info("%s is left: %s", image_id, error)
        except Exception as error:  # whatever one study brings must not stop the others
            if image_id not in self._studies.store.list_images():
                logger.info("%s was removed while it was being segmented", image_id)
                return None
            logger.warning("%s was not segmented: %s", image_id, error, exc_info=not isinstance(error, ValueError))
            return str(error) or type(error).__name__
        return None

    def _set(self, **changes: Any) -> None:
        with self._condition:
            self._status = replace(self._status, **changes)
