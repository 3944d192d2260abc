"""Measures what a run costs beside the segmenting itself, and how it grows with workers.

    python -m scripts.archive.measure overhead [--studies N]    actors and Ray Data on studies that cost nothing
    python -m scripts.archive.measure speedup ARCHIVE --template IMAGE --label LABEL    one worker and two: the start
        of the workers, the run from there to its end, and the steady state, in which nobody begins or has ended
    python -m scripts.archive.measure kills ARCHIVE --template IMAGE --label LABEL      the same run, workers killed

Each prints the machine's load beside its figures: on a busy machine they say little.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lib.cluster.connection import cluster
from lib.cluster.pool import Pool
from lib.networks.checkpoints import SHIPPED_WEIGHTS
from lib.segmenters.by_template import read_template
from scripts.archive.by_templates import ByTemplates
from scripts.archive.outputs import NiftiFiles
from scripts.archive.rows import SEGMENTED, Row, content_digest
from scripts.archive.run import Driver, Progress
from scripts.archive.storage import Storage
from scripts.archive.studies import Folder, Study
from scripts.archive.work import Plan

MB = 2**20


@dataclass(frozen=True)
class Numbers:
    """A source of studies that are nothing but a number."""

    count: int
    address: str = "numbers"

    def studies(self) -> Iterator[Study]:
        """Numbered from 0."""
        return (Study(f"study-{number:08d}") for number in range(self.count))

    @contextmanager
    def opened(self, study: Study) -> Iterator[Path]:
        """Nothing to open."""
        yield Path(study.id)


class Nothing:
    """Makes workers that answer at once."""

    def __call__(self) -> Any:
        """What works on a study."""
        return row_of


def row_of(study: Study) -> list[Row]:
    """A row as a segmented study has it."""
    return [Row(study.id, SEGMENTED, "organ", 1, 1000, 0.9, 0.8, 1.0, key=study.id, seconds=0.001)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "speedup", "kills"])
    parser.add_argument("archive", nargs="?")
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--template", type=Path)
    parser.add_argument("--label", type=Path)
    options = parser.parse_args(arguments)
    if options.what != "overhead" and not (options.archive and options.template and options.label):
        parser.error(f"{options.what} needs ARCHIVE, --template and --label")
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with cluster(cpus=2, store_mb=200) as ray:
        if options.what == "overhead":
            _overhead(ray, options.studies)
        else:
            template = read_template(options.template, options.label)
            labels = {name: template.names[name] for name in template.structures}
            method = ByTemplates.of(SHIPPED_WEIGHTS, [template], labels, threads=1)
            (_speedup if options.what == "speedup" else _kills)(ray, Folder(options.archive), method)
    print(f"load after: {os.getloadavg()[0]:.1f}")
    return 0


def _overhead(ray: Any, count: int) -> None:
    process = psutil.Process()
    sizes: list[tuple[int, int]] = []

    def follow(progress: Progress) -> None:
        if progress.done >= len(sizes) * count // 10:
            sizes.append((progress.done, process.memory_info().rss))

    with tempfile.TemporaryDirectory() as folder, closing(Pool[Study](ray, Nothing(), 2)) as pool:
        while pool.prepared < 2:
            pool.wait(1)
        begin, cpu = time.perf_counter(), time.process_time()
        Driver(Numbers(count), Storage(folder), pool, 60, follow).run(count)
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    first, most = sizes[1][1] if len(sizes) > 1 else sizes[0][1], max(size for _, size in sizes)
    print(
        f"actors: {count} studies, {1000 * wall / count:.2f} ms a study by the clock, {1000 * cpu / count:.2f} ms of "
        f"the driver's processor; memory of the driver {first / MB:.0f} MB after a tenth, {most / MB:.0f} MB at most"
    )
    begin, cpu = time.perf_counter(), time.process_time()
    done = sum(1 for _ in _ray_data(ray, count))
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(
        f"Ray Data: {done} studies, {1000 * wall / count:.2f} ms a study by the clock, {1000 * cpu / count:.2f} ms of "
        f"the driver's processor; memory of the driver {process.memory_info().rss / MB:.0f} MB at the end"
    )


class _Batch:
    """The same work as Ray Data wants it."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [row_of(Study(str(name)))[0] for name in batch["item"]]
        return {"study": np.array([row.study for row in rows]), "key": np.array([row.key for row in rows])}


def _ray_data(ray: Any, count: int) -> Iterator[Any]:
    """One study a batch, as one actor for each, so that a crash costs no other."""
    import ray.data as data

    data.DataContext.get_current().enable_progress_bars = False
    studies = data.from_items([study.id for study in Numbers(count).studies()])
    mapped = studies.map_batches(_Batch, batch_size=1, compute=data.ActorPoolStrategy(size=2), num_cpus=1)
    yield from mapped.iter_rows()


@dataclass(frozen=True)
class _Run:
    """What a run took.

    Attributes:
        driver: with the manifest.
        start, seconds: by the clock, until all workers were ready, and from then until the last study was done.
        workers, own, rays: seconds of processors meanwhile: of the workers, of this process, of Ray's own processes.
    """

    driver: Driver
    start: float
    seconds: float
    workers: float
    own: float
    rays: float


def _segment(ray: Any, source: Folder, method: ByTemplates, out: Path, workers: int) -> _Run:
    """A run from the start of its workers to its end."""
    storage = Storage(str(out))
    plan = Plan(method, source, NiftiFiles(storage), storage, method.fingerprint)
    begin = time.perf_counter()
    with closing(Pool[Study](ray, plan, workers)) as pool:
        while pool.prepared < workers:
            pool.wait(1)
        start, before = time.perf_counter() - begin, _processor_seconds()
        driver = Driver(source, storage, pool, 60)
        driver.run(sum(1 for _ in source.studies()))
        spent = [after - was for after, was in zip(_processor_seconds(), before, strict=True)]
    return _Run(driver, start, driver.seconds, *spent)


def _processor_seconds() -> tuple[float, float, float]:
    """Until now of all workers of this machine, of this process, and of Ray's other processes."""
    own = psutil.Process()
    workers = {process.pid for process in _workers()}
    seconds = {True: 0.0, False: 0.0}
    for process in own.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            seconds[process.pid in workers] += sum(process.cpu_times()[:2])
    return seconds[True], sum(own.cpu_times()[:2]), seconds[False]


def _workers() -> list[psutil.Process]:
    """Processes of actors that Ray on this machine started for this one."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if process.name().startswith("ray::Host") and process.is_running()]


def _digest_of(out: Path, driver: Driver) -> str:
    """Of all masks and the manifest."""
    files = sorted(path for path in (out / "masks").rglob("*") if path.is_file())
    digest = hashlib.sha256(content_digest(driver.manifest.rows()).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def steady_speed(rows: Sequence[Mapping[str, Any]], work: Mapping[str, float]) -> float:
    """Seconds of work done in a second while all workers were at work.

    A worker's first study encodes the templates, and after the first worker has nothing left the others have the
    machine for themselves: what finished from each worker's first study on until then is counted.

    Args:
        rows: of a manifest, a row a study at least.
        work: {study: its seconds}, by one measure for all runs that are compared; other studies do not count.

    Raises:
        ValueError: fewer than two studies of a worker were finished meanwhile.
    """
    finished: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["study"] in work:
            finished[row["worker"]][row["study"]] = row["finished"]
    end = min(max(times.values()) for times in finished.values())
    speed = 0.0
    for worker, times in finished.items():
        first, *others = sorted((at, study) for study, at in times.items() if at <= end)
        if not others:
            raise ValueError(f"each worker must finish two studies and more, {worker} did not: give a larger archive")
        speed += sum(work[study] for _, study in others) / (others[-1][0] - first[0])
    return speed


def _speedup(ray: Any, source: Folder, method: ByTemplates) -> None:
    runs: dict[int, _Run] = {}
    steady: dict[int, float] = {}
    work: dict[str, float] = {}  # of each study, by the worker that was alone
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            out = Path(folder) / str(workers)
            run = runs[workers] = _segment(ray, source, method, out, workers)
            rows = run.driver.manifest.rows()
            work = work or {row["study"]: row["seconds"] for row in rows if row["seconds"]}
            steady[workers] = steady_speed(rows, work)
            print(
                f"{workers} workers: ready after {run.start:.1f} s; {len(work)} studies in {run.seconds:.1f} s by the "
                f"clock; processors: workers {run.workers:.1f} s, driver {run.own:.1f} s, Ray {run.rays:.1f} s; "
                f"steady {steady[workers]:.3f} s of work a second; masks and manifest {_digest_of(out, run.driver)}, "
                f"load {os.getloadavg()[0]:.1f}"
            )
    one, two = runs[1], runs[2]
    print(
        f"two workers are so many times as fast as one by the clock: {steady[2] / steady[1]:.2f} in the steady state, "
        f"{one.seconds / two.seconds:.2f} from ready to the end, "
        f"{(one.start + one.seconds) / (two.start + two.seconds):.2f} with their start; their processors took "
        f"{two.workers / one.workers:.2f} times as long for the same studies"
    )


def _kills(ray: Any, source: Folder, method: ByTemplates) -> None:
    """A worker process is killed whenever another third of the studies is done."""
    with tempfile.TemporaryDirectory() as folder:
        calm = _segment(ray, source, method, Path(folder) / "calm", 2).driver
        ended = threading.Event()
        threading.Thread(target=_kill_workers, args=(Path(folder) / "killed", ended), daemon=True).start()
        killed = _segment(ray, source, method, Path(folder) / "killed", 2).driver
        ended.set()
        digests = [_digest_of(Path(folder) / name, driver) for name, driver in (("calm", calm), ("killed", killed))]
    print(f"{killed.progress.crashes} workers killed; masks and manifests {digests[0]} and {digests[1]}")


def _kill_workers(out: Path, ended: threading.Event, most: int = 2) -> None:
    """Kill a busy worker whenever one more record is there."""
    killed = 0
    while not ended.wait(0.2) and killed < most:
        records = len(list((out / "records").glob("*.json"))) if (out / "records").exists() else 0
        workers = _workers()
        if records > killed and workers:
            workers[0].kill()
            killed += 1


if __name__ == "__main__":
    sys.exit(main())
