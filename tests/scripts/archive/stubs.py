"""A segmenter that needs no network and breaks on demand, and a driver on it, also as a process of its own.

What breaks is said by the studies' names; what was computed is noted in a file, a line each time.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.cluster.connection import cluster
from lib.cluster.identity import Identity
from lib.cluster.pool import Pool
from lib.imaging.image import Image
from scripts.archive import storage as storage_module
from scripts.archive.outputs import NiftiFiles
from scripts.archive.run import Driver, Progress
from scripts.archive.storage import Storage
from scripts.archive.studies import Folder, Source, Study
from scripts.archive.work import Answer, Clock, Output, Plan

FINGERPRINT = "stub"
KILLER, KILLER_ONCE, HOLD = "killer", "once", "hold"
FULL = "disk-is-full"  # a file of the notes' folder: while it is there no file can be written


@dataclass(frozen=True)
class Stub:
    """Makes the method in a worker. notes: a folder for what tests wait for and look at."""

    notes: Path

    def __call__(self) -> StubMethod:
        fill_disk(self.notes)
        return StubMethod(self.notes)


class StubMethod:
    """Everything above the mean is the organ."""

    fingerprint = FINGERPRINT

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def segment(self, study: str, image: Image, clock: Clock) -> Answer:
        with (self._notes / "computed").open("a") as file:
            file.write(f"{study}\n")
        if KILLER in study:
            os.kill(os.getpid(), signal.SIGKILL)
        if KILLER_ONCE in study and not (flag := self._notes / f"killed-{Path(study).name}").exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if HOLD in study:
            (self._notes / "held").touch()
            wait_for(lambda: (self._notes / "go").exists())
        mask = (image.array > image.array.mean()).astype(np.uint8)
        dice = round(float(mask.mean()), 4)
        made = {"weights": "none", "templates": ["t"], "quality": {"organ": dice}, "alarms": {"organ": ["fragments"]},
                "quality_interval": {"organ": [dice / 2, dice]}, "quality_reason": {"organ": "a stub"}}  # fmt: skip
        return Answer(mask, {"organ": 1}, made)


class OtherWeights(Stub):
    """A method with another fingerprint than the run's."""

    def __call__(self) -> StubMethod:
        method = super().__call__()
        method.fingerprint = "other"
        return method


def fill_disk(notes: Path) -> None:
    """From now on no file is written in this process while the notes say that the disk is full."""
    write = storage_module.write_atomically

    def write_if_room(path: Path, data: bytes) -> None:
        if (notes / FULL).exists():
            (notes / "met-full-disk").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    storage_module.write_atomically = write_if_room  # type: ignore[assignment]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def run(
    ray: Any,
    source: Source,
    out: Path,
    notes: Path,
    workers: int = 2,
    output: Output | None = None,
    patience: float = 120,
    follow: Callable[[Progress], None] = lambda _: None,
    method: Callable[[], Any] | None = None,
    identity: Identity | None = None,
    total: int | None = None,
) -> Driver:
    """A run of the stub, to its end."""
    storage = Storage(str(out))
    plan = Plan(method or Stub(notes), source, output or NiftiFiles(storage), storage, FINGERPRINT)
    pool: Pool[Study] = Pool(ray, plan, workers, identity=identity)
    with closing(pool):
        driver = Driver(source, storage, pool, patience, follow)
        driver.run(total)
    return driver


def computed(notes: Path) -> list[str]:
    """Ids of the studies that were segmented, each time anew."""
    path = notes / "computed"
    return path.read_text().splitlines() if path.exists() else []


def states(driver: Driver) -> dict[str, str]:
    """{study: state}."""
    return {row["study"]: row["state"] for row in driver.manifest.rows()}


def recorded(out: Path) -> set[str]:
    """Ids of the studies whose masks are whole."""
    folder = out / "records"
    return {path.name.removesuffix(".json") for path in folder.glob("[!.]*.json")} if folder.exists() else set()


def main() -> None:
    """ARCHIVE OUT NOTES [ADDRESS]: a driver; Ray on this machine where no address is given."""
    archive, out, notes, *address = sys.argv[1:]
    with cluster(address[0] if address else None, cpus=2, store_mb=100) as ray:
        run(ray, Folder(archive), Path(out), Path(notes))


if __name__ == "__main__":
    main()
