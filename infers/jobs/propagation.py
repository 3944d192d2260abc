"""The background job: segments every study that has no person's label, and does so again when the templates change.

A thread of the server, so it shares network and caches with the interactive tasks and lets them go first
(`infers/serving/priority_lock.py`), or leaves the segmenting to workers of a cluster (`infers/jobs/engine.py`). It
keeps no list of what is to be done: after every study it asks `Studies.pending`, which derives it from the datastore.
So a label saved meanwhile is not lost, a killed server goes on where it stood, and running the job twice does nothing
twice. Only that a person cancelled it is noted in a file: no restart sets it going again.

Longer than most because all its states change here, under one condition.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout

from infers.disks import check_writable, disk_problem
from infers.errors import NotFound, reason_of
from infers.jobs.engine import Engine, LocalEngine
from infers.serving.priority_lock import PriorityLock
from infers.study_list.studies import Studies
from lib.cluster.connection import ClusterError
from lib.inference.control import Cancelled, Control

logger = logging.getLogger(__name__)


LAST_BATCH = 20.0  # seconds that the batch may take at which the server ends
ANOTHER_LOOK = 10.0  # seconds
TRY_AGAIN = 60.0  # seconds after which a job that stopped goes on: a drive or a server was away for a moment
Aside = Callable[[Control], None]
Running = dict[Future[str | None], tuple[str, tuple[str, str]]]  # to the study and what it was like when it began


class _JobControl(Control):
    """Of a piece of the job: lets people go first between batches, and ends what is no longer wanted."""

    def __init__(self, priority_lock: PriorityLock, in_vain: Callable[[], bool]) -> None:
        self._priority_lock, self._in_vain = priority_lock, in_vain

    def report(self, fraction: float) -> None:
        self._priority_lock.give_way()

    @property
    def stopped(self) -> bool:
        return self._in_vain()


@dataclass(frozen=True)
class JobStatus:
    """What the job does. States: idle, running, cancelling, done, failed, cancelled; `run` counts the runs.

    `idle` is `Propagation.idle`: in every state but running and cancelling, news may wait to be looked at.
    """

    state: str = "idle"
    done: int = 0
    total: int = 0
    current: str | None = None
    failed: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    eta_seconds: float | None = None
    run: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As clients read it."""
        return asdict(self)

    idle: bool = True


class Propagation:
    """The job of one study list.

    Args:
        studies: what is to be done, and how.
        gate: turns at the network.
        state: folder for a lock, so that two servers on one study list do not do the same work, and for the note that
            the job was cancelled.
        before: called with a control before studies are segmented; may segment some of them itself.
        after: likewise when all are.
        engine: where studies are segmented; by default this process.
    """

    def __init__(
        self,
        studies: Studies,
        priority_lock: PriorityLock,
        state: Path,
        before: Aside = lambda _: None,
        after: Aside = lambda _: None,
        engine: Engine | None = None,
    ) -> None:
        self._studies, self._priority_lock, self._before, self._after = studies, priority_lock, before, after
        self._engine = engine or LocalEngine(priority_lock)
        self._process_lock = FileLock(str(state / "job.lock"), thread_local=False)
        self._note = state / "job.cancelled"
        self._condition = threading.Condition()
        self._storing = threading.Lock()  # held while a mask is stored, or all of them are taken away
        self._wanted = False
        self._cancelled = False
        self._busy = False
        self._ended = False
        self._news = 0  # counts triggers: a study that began before the newest one may have to begin again
        self._looked = 0  # the news that the status takes into account
        self._failed: dict[str, tuple[tuple[str, str], str]] = {}  # image id: ((list, image) it failed with, reason)
        self._status = JobStatus(state="cancelled" if self._note.exists() else "idle")
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
            if not self._ended and (resume or self._status.state not in ("cancelling", "cancelled")):
                self._wanted, self._cancelled = True, False
                self._note.unlink(missing_ok=True)
                self._failed = {} if resume else self._failed
                self._news += 1
                self._condition.notify_all()
            return replace(self._status, idle=self.idle())

    def cancel(self) -> JobStatus:
        """Stop the run that is under way after the batch it is at; what is done stays."""
        with self._condition:
            state = self._status.state
            looking = self._looked != self._news and state not in ("cancelling", "cancelled")  # at what there is to do
            if state == "running" or self._wanted or looking:
                self._wanted, self._cancelled = False, True
                self._status = replace(self._status, state="cancelling")
                self._note.touch()
                self._condition.notify_all()
            return replace(self._status, idle=self.idle())

    def end(self, seconds: float = LAST_BATCH) -> bool:
        """Stop after the batch it is at and stay so, for this process ends: the next one goes on.

        Returns:
            Whether it is idle within so many seconds.
        """
        with self._condition:
            self._ended, self._wanted = True, False
            self._cancelled = self._busy
            self._condition.notify_all()
        return self.wait(seconds)

    def undo(self) -> list[str]:
        """Take every mask away that this app made, stop, and stay so until somebody asks for the job again.

        Labels that a person submitted or accepted, and masks of others, stay. Returns the ids of the studies.
        """
        self.cancel()
        with self._condition:
            self._note.touch()
            self._news += 1  # what goes with a run ends too, also after the last mask, where there is no run to cancel
            if not self._cancelled:  # nothing runs
                self._status = replace(self._status, state="cancelled", done=0, total=0, failed={})
        with self._storing:
            return self._studies.remove_automatic()

    def status(self) -> JobStatus:
        """What the job does now; it is not done while it has not yet looked at what is new."""
        with self._condition:
            behind = self._looked != self._news and self._status.state in ("done", "failed")
            return replace(self._status, state="running" if behind else self._status.state, idle=self.idle())

    def idle(self) -> bool:
        """True while nothing runs and no news waits to be looked at."""
        with self._condition:
            return not (self._busy or self._wanted or self._cancelled)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the job is idle; False where it is not after so many seconds."""
        with self._condition:
            return self._condition.wait_for(self.idle, seconds)

    def _work(self) -> None:
        pause = None
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                is_needed = self._condition.wait_for(lambda: self._wanted or self._cancelled, pause)
                pause = None
                if not is_needed and self._status.state != "failed":
                    continue  # somebody undid the job meanwhile
                self._busy = True
            try:
                self._studies.store.check_there()  # taking the lock makes its file
                with self._process_lock.acquire(timeout=0):
                    self._run()
            except Timeout:
                self._leave_to_another()
            except Exception as error:
                logger.exception("the job stopped")
                pause = TRY_AGAIN
                self._wanted, self._cancelled, self._looked = False, False, self._news
                self._set(
                    state="failed", current=None, eta_seconds=None, failed={"": f"the job stopped: {reason_of(error)}"}
                )

    def _leave_to_another(self) -> None:
        """Another server process segments this list: wait until it may have ended, or somebody cancels."""
        logger.info("another server process segments this study list; it is looked at again later")
        with self._condition:
            if not self._condition.wait_for(lambda: self._cancelled, ANOTHER_LOOK):
                self._wanted = not self._ended  # also after a look that nobody asked for
                return
            self._cancelled = False
            self._set(state="cancelled", current=None, eta_seconds=None)

    def _run(self) -> None:
        """Segment until nothing is left to do, or somebody cancels."""
        finished, started, began = 0, time.time(), time.monotonic()
        running: Running = {}
        pending: list[str] = []
        looked: tuple[str, int] | None = None  # at the whole list, when it and the news were so
        while True:
            if self._cancelled:
                looked = None
                self._collect(running, ALL_COMPLETED)
            with self._condition:
                self._wanted, news = False, self._news
            list_state = self._studies.state()
            stamp = self._studies.store.image_stamp
            reasons = {id: reason for id, (at, reason) in self._failed.items() if at == (list_state, stamp(id))}
            if not running:
                self._studies.store.check_there()
            if fresh := looked != (list_state, news):
                pending, looked = self._studies.pending(), (list_state, news)
            underway = [image_id for image_id, _ in running.values()]
            todo = [image_id for image_id in pending if image_id not in reasons and image_id not in underway]
            done = self._studies.count_without_final() - len(pending)
            with self._condition:
                if self._cancelled:
                    self._cancelled = False
                    self._set(state="cancelled", done=done, total=done + len(pending), current=None, eta_seconds=None)
                    return
            if not todo and not running and not fresh:
                looked = None  # done with what there was at the last look
                continue
            if not todo and not running:
                if finished or self._status.state != "idle":  # a look that finds nothing to do is no run
                    state = "failed" if reasons and not done else "done"
                    self._set(state=state, done=done, total=done + len(reasons), current=None, eta_seconds=None,
                              failed=reasons)  # fmt: skip
                self._looked = news
                self._aside(self._after, news)
                return
            ahead = [*underway, *todo]
            if not running:
                check_writable(self._studies.store.root)
            eta = round((time.monotonic() - began) / finished * len(ahead), 1) if finished else None
            self._set(state="running", run=self._status.run + (not finished and not running), started=started,
                      done=done, total=done + len(pending), current=ahead[0], failed=reasons,
                      eta_seconds=eta)  # fmt: skip
            if fresh:
                self._aside(self._before, news)
            over: set[str] = set()
            for image_id in todo:
                if len(running) >= self._engine.width:
                    break
                if not self._studies.is_pending(image_id):
                    self._failed.pop(image_id, None)
                    over.add(image_id)
                    continue
                tried = (list_state, stamp(image_id))  # before it is read: it may be in the middle of being copied
                running[self._engine.submit(partial(self._segment, image_id, news, tried[1]))] = (image_id, tried)
            over |= self._collect(running, FIRST_COMPLETED) if running else set()
            finished += len(over)
            pending = [image_id for image_id in pending if image_id not in over or image_id in self._failed]

    def _collect(self, running: Running, until: str) -> set[str]:
        """Wait for studies that are under way, and note why some failed; returns those that were done.

        Raises:
            ConnectionError, ClusterError, OSError: what all studies need is away; none is under way then.
        """
        done, _ = futures.wait(running, return_when=until)
        over = set()
        for future in done:
            if future.exception() is not None:
                futures.wait(running)
            image_id, tried = running.pop(future)
            self._failed.pop(image_id, None)
            if reason := future.result():
                self._failed[image_id] = (tried, reason)
            over.add(image_id)
        return over

    def _aside(self, act: Aside, news: int) -> None:
        """What goes with a run beside its masks; should it fail, the masks are made all the same."""
        control = _JobControl(self._priority_lock, lambda: self._cancelled or self._news != news)
        try:
            with self._storing, self._priority_lock.background():  # it may store masks; undoing them stops it first
                act(control)
        except Cancelled:
            logger.info("left for later: there is news")
        except Exception:
            logger.exception("the masks are made without it")

    def _segment(self, image_id: str, news: int, stamp: str) -> str | None:
        """Segment one study and store its mask with the stamp of its image; returns why that failed, or None."""

        def in_vain() -> bool:
            nonlocal news
            if self._news != news and not self._cancelled:
                news = self._news
                return self._studies.fingerprint_now(image_id, image) != fingerprint
            return self._cancelled

        try:
            image = self._studies.image(image_id)
            if self._studies.automatic(image_id, image):
                return None  # nobody had looked at the study, so its mask might have been out of date
            fingerprint = self._studies.fingerprint_now(image_id, image)
            control = _JobControl(self._priority_lock, in_vain)
            prediction = self._studies.segment(image_id, image, control=control, engine=self._engine.segment)
            with self._storing:
                if self._cancelled:
                    raise Cancelled("cancelled")
                self._studies.store_automatic(image_id, image, prediction, stamp)
        except (Cancelled, NotFound) as error:
            changed = isinstance(error, Cancelled) and not self._cancelled
            logger.info("%s is left: %s", image_id, "its templates changed" if changed else error)
        except (requests.ConnectionError, ClusterError):
            raise  # the server of all studies, or all workers, are away: nothing of this is the study's fault
        except Exception as error:  # whatever one study brings must not stop the others
            self._studies.store.check_there()
            if image_id not in self._studies.store.list_images():
                logger.info("%s was removed while it was being segmented", image_id)
                return None
            if isinstance(error, OSError) and error.errno != errno.ENOENT and disk_problem(error):
                raise  # nor is it of a full disk
            logger.warning("%s was not segmented: %s", image_id, error, exc_info=not isinstance(error, ValueError))
            return reason_of(error)
        return None

    def _set(self, **changes: Any) -> None:
        with self._condition:
            self._status = replace(self._status, **changes)
