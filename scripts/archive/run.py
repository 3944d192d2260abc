"""The driver of a run: gives studies to workers, writes the manifest, waits where storage or servers are away.

It holds no list of the archive: the source is drawn from as workers have room, and of what is done it keeps eight bytes
a study. What it has not yet written is bounded, so a manifest that cannot be written stops the workers.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lib.cluster.host import Away
from lib.cluster.pool import Done, Killed, Outcome, Pool
from scripts.archive.manifest import Manifest, is_among, study_hash
from scripts.archive.rows import FAILED, SET_ASIDE, Row
from scripts.archive.storage import Storage
from scripts.archive.studies import Source, Study

RUN, CRASHES, LOCK = "run.json", "crashes", "run.lock"
MOST_CRASHES = 3  # of a study, before it is set aside
PART_ROWS, PART_SECONDS = 2048, 5.0  # a part of the manifest is written at the first of them
MOST_WAITING = 4 * PART_ROWS  # rows that could not be written yet
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two tries of what is away
LOOK = 0.5  # seconds


class RunError(RuntimeError):
    """A run that cannot begin or go on; the message says what to do."""


class Unfinished(RunError):
    """What a run needs stayed away; the same command goes on later."""


@dataclass(frozen=True)
class Identification:
    """What makes a run the one that a folder holds.

    Attributes:
        source: address of the archive.
        method: fingerprint of templates, structures, weights and settings.
        output: where masks go, and in which form.
    """

    source: str
    method: str
    output: str

    def claim(self, storage: Storage, about: dict[str, Any]) -> None:
        """Take a run's folder for this run; `about` is noted beside it. Raises RunError where it is another's."""
        data = storage.read(RUN)
        if data is None:
            storage.write(RUN, json.dumps({**asdict(self), **about}, indent=1).encode())
            return
        try:
            known = {name: json.loads(data).get(name) for name in asdict(self)}
        except ValueError:
            known = {}
        if other := [name for name, value in asdict(self).items() if known.get(name) != value]:
            others = "; ".join(f"its {name} is {known.get(name)}, here it is {getattr(self, name)}" for name in other)
            raise RunError(f"{storage.address} holds the manifest of another run ({others}): name another folder")


@contextmanager
def alone(storage: Storage) -> Iterator[None]:
    """No other start of a run is at work in this folder meanwhile; at an address that is for people to see to.

    Raises:
        RunError: one is.
    """
    if not storage.is_local:
        yield
        return
    lock = FileLock(str(Path(storage.address) / LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another start of this run works in {storage.address}: wait until it ends, or end it") from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class Progress:
    """How far a run is: studies of this archive, those of earlier starts included."""

    total: int | None
    done: int = 0
    failed: int = 0
    set_aside: int = 0
    crashes: int = 0
    away: str = ""


Follow = Callable[[Progress], None]


class Driver:
    """One start of a run.

    Args:
        source: the archive.
        storage: the run's folder.
        pool: workers of `scripts.archive.work`, on this plan.
        patience: seconds for which storage or servers may be away before the run ends unfinished.
        follow: told of every change.
        again: states whose studies are tried again.
    """

    def __init__(
        self,
        source: Source,
        storage: Storage,
        pool: Pool[Study],
        patience: float,
        follow: Follow = lambda _: None,
        again: Collection[str] = (),
    ) -> None:
        self._source, self._storage, self._pool, self._patience, self._follow = source, storage, pool, patience, follow
        self.manifest = Manifest(storage)
        self._states = tuple(again)
        self._rows: list[Row] = []
        self._flushed = time.monotonic()
        self._again: deque[Study] = deque()
        self._crashes = _Crashes(storage, forget=SET_ASIDE in self._states)
        self._pause = _Pause(patience)
        self._begin = self._end = 0.0  # when a worker was ready first, and when the last study was done

    @property
    def seconds(self) -> float:
        """From when workers were ready until the last study was done."""
        return self._end - self._begin

    def run(self, total: int | None) -> Progress:
        """Segment what has no row yet.

        Args:
            total: studies of the archive, where that is known.

        Raises:
            Unfinished: storage or a server stayed away; what is done is kept.
            ClusterError: see `lib.cluster.pool`.
        """
        if self._states:
            self.manifest.drop(self._states)
        known = self.manifest.studies()
        self.progress = Progress(total, done=len(known))
        try:
            self._work(_Listing(self._source, known))
        finally:
            self._flush_last()
        return self.progress

    def _work(self, listing: _Listing) -> None:
        while True:
            self._submit(listing)
            if listing.exhausted and not self._again and not self._pool.busy:
                return
            if self._pool.busy or not self._pool.prepared:
                self._take(self._pool.wait(LOOK))
            else:
                time.sleep(LOOK)  # something is away
            if self._pool.prepared and not self._begin:
                self._begin = time.monotonic()
            self._flush_now_and_then()
            self._pause.check()
            self._follow(self.progress)

    def _submit(self, listing: _Listing) -> None:
        """Give the workers what they have room for."""
        while self._may_submit() and (self._again or not listing.exhausted):
            try:
                study = self._again.popleft() if self._again else listing.next()
            except Away as error:
                self._pause.begin(str(error))
                return
            if study is None:
                return
            if (crashes := self._crashes.of(study)) >= MOST_CRASHES:
                self._set_aside(study, crashes, "see the run's crashes")
            else:
                self._pool.submit(study)

    def _may_submit(self) -> bool:
        total, begun = self.progress.total, self.progress.done + self._pool.busy
        if len(self._rows) > MOST_WAITING or not self._pool.has_room(None if total is None else total - begun):
            return False
        return self._pause.may_try(self._pool.busy)

    def _take(self, outcomes: Sequence[Outcome[Study]]) -> None:
        for outcome in outcomes:
            study = outcome.item
            if isinstance(outcome, Done):
                self._pause.end()
                self._add(outcome.result)
            elif isinstance(outcome, Killed):
                self._crashed(study, outcome.reason)
            else:
                self._again.append(study)
                self._pause.begin(outcome.reason)
        self.progress.away = self._pause.reason

    def _crashed(self, study: Study, reason: str) -> None:
        self.progress.crashes += 1
        crashes = self._crashes.note(study, reason)
        if crashes >= MOST_CRASHES:
            self._set_aside(study, crashes, reason)
        else:
            self._again.append(replace(study, attempt=crashes))

    def _set_aside(self, study: Study, crashes: int, reason: str) -> None:
        reason = f"it killed its worker {crashes} times, the last time so: {reason}"
        self._add([Row(study.id, SET_ASIDE, reason=reason, finished=round(time.time(), 3))])

    def _add(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        self._end = time.monotonic()
        self.progress.done += 1
        self.progress.failed += rows[0].state == FAILED
        self.progress.set_aside += rows[0].state == SET_ASIDE

    def _flush_now_and_then(self) -> None:
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._flushed >= PART_SECONDS:
            try:
                self._flush()
            except Away as error:
                self._pause.begin(str(error))

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._rows:
            self.manifest.append(self._rows)
            self._rows = []
            self.manifest.join_parts()

    def _flush_last(self) -> None:
        """Write what is left, with the patience that is left; else those studies' records tell their rows later."""
        while self._rows:
            try:
                self._flush()
            except Away as error:
                self._pause.begin(str(error))
                self._pause.check()
                self.progress.away = self._pause.reason
                self._follow(self.progress)
                time.sleep(LOOK)


class _Listing:
    """The studies of a source without those that have rows; goes on where it stood when the source was away."""

    def __init__(self, source: Source, known: np.ndarray) -> None:
        self._source, self._known = source, known
        self._place = 0
        self._studies: Iterator[Study] | None = None
        self.exhausted = False

    def next(self) -> Study | None:
        """The next one, None after the last. Raises Away."""
        try:
            self._studies = self._studies or islice(self._source.studies(), self._place, None)
            for study in self._studies:
                self._place += 1
                if not is_among(study.id, self._known):
                    return study
        except Away:
            self._studies = None
            raise
        self.exhausted = True
        return None


class _Pause:
    """While something is away one study after the other tries whether it is back, less and less often."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None
        self._next, self._wait = 0.0, FIRST_WAIT
        self.reason = ""

    @property
    def active(self) -> bool:
        return self._since is not None

    def begin(self, reason: str) -> None:
        now = time.monotonic()
        self.reason = reason
        if self._since is None:
            self._since, self._wait = now, FIRST_WAIT
        if now >= self._next:
            self._next, self._wait = now + self._wait, min(2 * self._wait, LONGEST_WAIT)

    def end(self) -> None:
        self._since, self.reason, self._next = None, "", 0.0

    def may_try(self, busy: int) -> bool:
        return self._since is None or (not busy and time.monotonic() >= self._next)

    def check(self) -> None:
        """Raises Unfinished where patience is at its end."""
        if self._since is not None and time.monotonic() - self._since > self._patience:
            raise Unfinished(
                f"{self.reason}; it stayed so for {self._patience:.0f} seconds. What is done is kept: mend it and give "
                "the same command again"
            )


class _Crashes:
    """How often each study killed its worker; files of the run's folder, for a study may kill the driver too."""

    def __init__(self, storage: Storage, forget: bool) -> None:
        self._storage = storage
        self._known: dict[str, list[str]] = {}
        for name in storage.names(CRASHES):
            if forget:
                storage.remove(f"{CRASHES}/{name}")
            elif data := storage.read(f"{CRASHES}/{name}"):
                note = json.loads(data)
                self._known[note["study"]] = note["reasons"]

    def of(self, study: Study) -> int:
        return len(self._known.get(study.id, ()))

    def note(self, study: Study, reason: str) -> int:
        reasons = self._known.setdefault(study.id, [])
        reasons.append(reason)
        name = f"{CRASHES}/{study_hash(study.id):016x}.json"
        try:
            self._storage.write(name, json.dumps({"study": study.id, "reasons": reasons}).encode())
        except Away:
            pass  # counted by this start all the same
        return len(reasons)
