"""What a worker does with one study: read, segment, write the mask and its record, and tell its rows.

A mask is whole when its record lies beside it. Whoever meets a study that has its record, with the key that its mask
would get now, tells the rows from it and computes nothing: so a study that was finished by a worker, or for a driver,
that died before anybody noted it is not done twice.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lib.cluster.host import Away
from lib.imaging.image import Image
from lib.imaging.images import read_image
from lib.segmenters.fingerprints import digest
from scripts.archive.rows import FAILED, LABELLED, Record, Row
from scripts.archive.storage import Storage
from scripts.archive.studies import Source, Study

RECORDS = "records"


@dataclass(frozen=True, eq=False)
class Answer:
    """A mask: integers of the image's shape, {structure: value}, and what is recorded about it."""

    mask: np.ndarray
    labels: Mapping[str, int]
    provenance: Mapping[str, Any]


@dataclass
class Clock:
    """Seconds by stage of one study."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """What happens within counts for this stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def add(self, stage: str, seconds: float) -> None:
        """Count so many seconds more for a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class Labelled(Exception):
    """The study is one of the templates: a person's label is never made again."""


class Method(Protocol):
    """How images are segmented."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes masks: templates, structures, weights, settings."""

    def segment(self, study: str, image: Image, clock: Clock) -> Answer:
        """Segment one image. Raises Labelled for one of the templates' own."""


class Output(Protocol):
    """Where masks go; picklable."""

    def write(self, study: Study, opened: Path, image: Image, answer: Answer, key: str) -> tuple[str, int]:
        """Store a mask, whole or not at all, and the same one twice as one.

        Returns:
            Where it lies, and the bytes of its file.

        Raises:
            Away: there is no room, or the place cannot be reached.
            ImageError: a mask that the output's format cannot hold.
        """


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know of a run; picklable.

    Attributes:
        method: makes the method in the worker.
        source, output: where studies come from and masks go.
        storage: the run's folder, for the records.
        fingerprint: what the method's must be; empty for any.
    """

    method: Callable[[], Method]
    source: Source
    output: Output
    storage: Storage
    fingerprint: str = ""

    def __call__(self) -> Worker:
        """The worker. Raises ValueError where its method is another one than the run's."""
        return Worker(self)


class Worker:
    """Segments studies."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._method = plan, plan.method()
        if plan.fingerprint and self._method.fingerprint != plan.fingerprint:
            raise ValueError(
                f"its weights and templates are {self._method.fingerprint} and must be {plan.fingerprint}: install the "
                "same checkout, or the same container image"
            )
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, study: Study) -> list[Row]:
        """The rows of one study. Raises Away."""
        begin = time.time()
        try:
            record = self._record(study)
        except Away:
            raise
        except Labelled:
            return [Row(study.id, LABELLED, worker=self._name, finished=round(time.time(), 3))]
        except Exception as error:  # whatever one study brings must not stop the others
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            return [Row(study.id, FAILED, reason=reason, seconds=round(time.time() - begin, 4), worker=self._name,
                        finished=round(time.time(), 3))]  # fmt: skip
        return record.rows(study.id, self._name, time.time())

    def _record(self, study: Study) -> Record:
        clock = Clock()
        with ExitStack() as stack:
            with clock.of("read"):
                path = stack.enter_context(self._plan.source.opened(study))
                image = read_image(path)
                key = digest([image.checksum, self._method.fingerprint])
                known = read_record(self._plan.storage, study.id)
            if known and known.key == key:
                return replace(known, seconds={})
            answer = self._method.segment(study.id, image, clock)
            with clock.of("write"):
                mask, size = self._plan.output.write(study, path, image, answer, key)
        values, counts = np.unique(answer.mask, return_counts=True)
        sizes = dict(zip(values.tolist(), counts.tolist(), strict=True))
        voxels = {name: int(sizes.get(value, 0)) for name, value in answer.labels.items()}
        record = Record(key, dict(answer.labels), voxels, dict(answer.provenance), mask, size, clock.seconds)
        self._plan.storage.write(record_name(study.id), json.dumps(asdict(record), indent=1).encode())
        return record


def record_name(study: str) -> str:
    """Where a study's record lies in the run's folder."""
    return f"{RECORDS}/{study}.json"


def read_record(storage: Storage, study: str) -> Record | None:
    """A study's record; None where there is none, or one that another version wrote. Raises Away."""
    data = storage.read(record_name(study))
    try:
        return Record(**json.loads(data)) if data else None
    except (TypeError, ValueError):
        return None
