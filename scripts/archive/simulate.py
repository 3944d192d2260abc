"""Predicts what an archive takes from a run's own manifest, and checks that by a simulation with failures.

    python -m scripts.archive.simulate OUT [--studies N] [--workers W] [--deaths D] [--outages H] [--megabytes M]

The model is arithmetic on means; the simulation draws every study's seconds from those that were recorded and lets
workers die, the cluster stop and the archive's server go away. Where both agree, the model is trusted for archives that
are too large to simulate.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.archive.manifest import Manifest
from scripts.archive.rows import SEGMENTED, STAGES
from scripts.archive.storage import Storage
from scripts.command_line import parser_of

LARGEST = 1_000_000  # studies that are simulated one by one
HOUR = 3600.0


@dataclass(frozen=True)
class Stages:
    """What studies took in a run.

    Attributes:
        seconds: (N, 6) of each stage in the order of `STAGES`.
        sizes: (N,) bytes of their masks.
    """

    seconds: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest) -> Stages:
        """Those of the studies that a run segmented. Raises ValueError where there is none."""
        columns = [f"{stage}_seconds" for stage in STAGES]
        seconds, sizes = [], []
        for table in manifest.tables((*columns, "state", "seconds", "size")):
            for row in table.to_pylist():
                if row["state"] == SEGMENTED and row["seconds"] > 0:
                    seconds.append([row[column] for column in columns])
                    sizes.append(row["size"])
        if not seconds:
            raise ValueError("the run must hold segmented studies, and it has none: segment some first")
        return cls(np.array(seconds), np.array(sizes, float))

    @property
    def each(self) -> np.ndarray:
        """(N,) seconds of each study."""
        return np.asarray(self.seconds.sum(axis=1))


@dataclass(frozen=True)
class Circumstances:
    """Where an archive is segmented.

    Attributes:
        studies, workers: how many.
        driver_seconds: of the driver for a study; workers wait for it where they are too many.
        deaths: of each worker in an hour.
        restart_seconds: until another worker is at work.
        outages: of the archive's server, in an hour.
        outage_seconds: how long each lasts.
    """

    studies: int
    workers: int
    driver_seconds: float = 0.0016
    deaths: float = 0.0
    restart_seconds: float = 30.0
    outages: float = 0.0
    outage_seconds: float = 600.0


def predicted_hours(each: np.ndarray, at: Circumstances) -> float:
    """Hours by the means alone.

    A death costs the new worker's start and what was done of the study, on average E[t^2] / 2 E[t] (the age of what a
    renewal process is at; Ross, Introduction to Probability Models, 7.7). An outage stops everybody, and what each
    worker was at is done again.
    """
    mean = float(each.mean())
    age = float((each**2).mean()) / (2 * mean)
    death = at.deaths / HOUR * (age + at.restart_seconds)
    outage = at.outages / HOUR * (age + at.outage_seconds)
    rate = min(at.workers / (mean * (1 + death)), 1 / at.driver_seconds)
    tail = float(each.max()) / 2  # the last studies do not end together
    return at.studies / rate * (1 + outage) / HOUR + tail / HOUR


def simulated_hours(each: np.ndarray, at: Circumstances, seed: int = 0) -> tuple[float, int]:
    """Hours until the last study is done, and how many studies were begun in vain, one study after the other."""
    rng = np.random.default_rng(seed)
    ready = [(0.0, worker) for worker in range(at.workers)]
    die = rng.exponential(HOUR / at.deaths, at.workers) if at.deaths else np.full(at.workers, math.inf)
    away = rng.exponential(HOUR / at.outages) if at.outages else math.inf
    driver, last, vain = 0.0, 0.0, 0
    left = at.studies
    while left:
        now, worker = heapq.heappop(ready)
        while now >= away + at.outage_seconds:
            away += at.outage_seconds + rng.exponential(HOUR / at.outages)
        if now >= away:
            heapq.heappush(ready, (away + at.outage_seconds, worker))
            continue
        now = driver = max(now, driver) + at.driver_seconds
        end = now + float(each[rng.integers(len(each))])
        if die[worker] < end:
            vain += 1
            back = max(now, die[worker]) + at.restart_seconds
            die[worker] = back + rng.exponential(HOUR / at.deaths)
            heapq.heappush(ready, (back, worker))
        elif away < end:
            vain += 1
            heapq.heappush(ready, (away + at.outage_seconds, worker))
        else:
            left -= 1
            last = max(last, end)
            heapq.heappush(ready, (end, worker))
    return last / HOUR, vain


def report(stages: Stages, at: Circumstances, megabytes: float) -> list[str]:
    """Lines about one archive.

    Args:
        megabytes: of one study as it is read.
    """
    each = stages.each
    hours = predicted_hours(each, at)
    rate = at.studies / hours / HOUR
    few = Circumstances(min(at.studies, LARGEST), at.workers, at.driver_seconds, at.deaths, at.restart_seconds,
                        at.outages, at.outage_seconds)  # fmt: skip
    simulated, vain = simulated_hours(each, few)
    scale = at.studies / few.studies
    return [
        f"{at.studies:,} studies on {at.workers:,} workers: {hours:,.1f} hours, {at.studies * each.mean() / HOUR:,.0f} "
        "hours of work",
        f"  simulated {simulated * scale:,.1f} hours ({100 * (hours / scale / simulated - 1):+.1f} % the model), "
        f"{100 * vain / few.studies:.2f} % of the studies begun twice",
        f"  {rate:.2f} studies/s: {rate * megabytes:,.1f} MB/s in {2 * rate:.2f} requests/s (with one to store), "
        f"{rate * stages.sizes.mean() / 1e6:,.3f} MB/s out",
        f"  in all {at.studies * megabytes / 1e6:,.2f} TB in, {at.studies * stages.sizes.mean() / 1e9:,.2f} GB of "
        f"masks; one driver has enough for {each.mean() / at.driver_seconds:,.0f} workers",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = parser_of("archive.simulate", __doc__)
    parser.add_argument("out", metavar="OUT", help="the folder of a run")
    parser.add_argument("--studies", type=int, nargs="+", default=[10_000], metavar="N")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], metavar="W", help="as many as --studies has")
    parser.add_argument("--deaths", type=float, default=0.01, metavar="D", help="of each worker in an hour (0.01)")
    parser.add_argument("--outages", type=float, default=0.01, metavar="H", help="of ten minutes, in an hour (0.01)")
    parser.add_argument("--driver-ms", type=float, default=1.6, metavar="M", help="of the driver for a study (1.6)")
    parser.add_argument("--megabytes", type=float, default=50.0, metavar="M", help="of one study as it is read (50)")
    options = parser.parse_args(arguments)
    try:
        stages = Stages.of(Manifest(Storage(options.out)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    means, spread = stages.seconds.mean(axis=0), stages.each.std() / stages.each.mean()
    print(f"{len(stages.each)} studies recorded, {stages.each.mean():.3f} s each (spread {100 * spread:.0f} %): "
          + ", ".join(f"{stage} {mean:.3f}" for stage, mean in zip(STAGES, means, strict=True)))  # fmt: skip
    for studies, workers in zip(options.studies, options.workers, strict=True):
        at = Circumstances(studies, workers, options.driver_ms / 1000, options.deaths, outages=options.outages)
        print("\n".join(report(stages, at, options.megabytes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
