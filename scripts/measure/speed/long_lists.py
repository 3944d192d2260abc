"""What a long list costs: a server's start, its status and its board, and each study that the job segments.

The studies are small pictures, so that what is measured is the bookkeeping. Of a long list only the first ones are
segmented: each of them costs as much as any other, because what is kept of the list is there from the start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from scripts.measure.speed.clicks import core_seconds
from scripts.measure.speed.costs import Target, at_most
from scripts.servers.client import Client, Server

SIDE = 32  # pixels
STATUS, BOARD = "/oneprompt/status", "/oneprompt/studies"
SEGMENTED = 40  # studies whose cost is taken, after `WARM` of them
WARM = 5
REQUESTS = 20  # times that status and board are asked
LONGEST = 10_000
MOST_START, MOST_MILLISECONDS, MOST_KILOBYTES, MOST_GROWTH = 15.0, 50.0, 50.0, 1.1


@dataclass(frozen=True)
class ListCost:
    """Of a list of `studies` small pictures.

    Attributes:
        start: seconds until the server answered, of which `start_core` core seconds.
        milliseconds, kilobytes: of status and board, by their paths; medians and 95th percentiles.
        study: core seconds of one study that the job segmented.
    """

    studies: int
    start: float
    start_core: float
    milliseconds: Mapping[str, tuple[float, float]]
    kilobytes: Mapping[str, float]
    study: float

    def to_json(self) -> dict[str, Any]:
        """As the benchmark writes it."""
        return asdict(self)


def measure_list(count: int) -> ListCost:
    """The costs of a list of so many studies, the first of which is labelled."""
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        label = Path(folder) / "label.png"
        write_pictures(studies, label, count)
        conf = {"labels": "disc", "models": str(Path(folder) / "models"), "auto_propagate": "false"}
        server = Server(studies, log=Path(folder) / "server.log", conf=conf, start_timeout=1800)
        began = time.perf_counter()
        with server, Client(server.url, timeout=600) as client:
            start, start_core = time.perf_counter() - began, core_seconds(server.url)
            client.save_label("study_00000", label, {"disc": 1})
            answers = {path: _cost_of_answer(server.url + path) for path in (STATUS, BOARD)}
            return ListCost(
                studies=count,
                start=round(start, 2),
                start_core=round(start_core, 2),
                milliseconds={path: times for path, (times, _) in answers.items()},
                kilobytes={path: size for path, (_, size) in answers.items()},
                study=round(_cost_of_study(client, server.url, min(SEGMENTED, count - 1 - WARM)), 4),
            )


def targets(costs: Sequence[ListCost]) -> list[Target]:
    """What was promised of the longest list, and of how a study's cost grows from the shortest to the longest."""
    by_count = {cost.studies: cost for cost in costs}
    if LONGEST not in by_count:
        return []
    longest, shortest = by_count[LONGEST], by_count[min(by_count)]
    values, bounds = {f"start at {LONGEST}, s": longest.start}, {f"start at {LONGEST}, s": MOST_START}
    for path in (STATUS, BOARD):
        values |= {f"{path} at {LONGEST}, ms": longest.milliseconds[path][0], f"{path}, kB": longest.kilobytes[path]}
        bounds |= {f"{path} at {LONGEST}, ms": MOST_MILLISECONDS, f"{path}, kB": MOST_KILOBYTES}
    if shortest is not longest:
        name = f"a study on a list of {LONGEST} / of {shortest.studies}"
        values[name], bounds[name] = longest.study / shortest.study, MOST_GROWTH
    return at_most(bounds, values)


def write_pictures(studies: Path, label: Path, count: int) -> None:
    """So many pictures of a bright disc, and the first one's label map."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for number in range(count):
        centre, radius = rng.uniform(0.35, 0.65, 2) * SIDE, rng.uniform(0.15, 0.25) * SIDE
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        grey = 60 + 120 * disc + rng.normal(0, 10, disc.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(studies / f"study_{number:05}.png")
        if number == 0:
            Image.fromarray(disc.astype(np.uint8)).save(label)


def _cost_of_answer(url: str) -> tuple[tuple[float, float], float]:
    """Milliseconds of a request, median and 95th percentile, and the kilobytes of its answer."""
    taken = []
    for _ in range(1 + REQUESTS):
        began = time.perf_counter()
        answer = requests.get(url, timeout=600)
        answer.raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    median, late = np.percentile(taken[1:], (50, 95)).round(1).tolist()
    return (median, late), round(len(answer.content) / 1000, 1)


def _cost_of_study(client: Client, url: str, count: int) -> float:
    """Core seconds of each of so many studies of the job, which is cancelled then."""
    client.start_job()
    first, core = _wait_until_done(url, WARM)
    last, after = _wait_until_done(url, WARM + count)
    client.cancel_job()
    return (after - core) / (last - first)


def _wait_until_done(url: str, count: int) -> tuple[int, float]:
    """How many studies are done, that many or a few more, and the server's core seconds then."""
    while True:
        job = requests.get(url + STATUS, timeout=600).json()["job"]
        if job["done"] >= count or job["state"] in ("done", "failed"):
            if job["done"] < count:
                raise RuntimeError(f"the job must segment {count} studies, it ended with {job}")
            return job["done"], core_seconds(url)
        time.sleep(0.2)
