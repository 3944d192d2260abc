"""What a long list costs: a server's start, its status and its board, and each study that the job segments.

The studies are small pictures, so that what is measured is the bookkeeping. Of a long list only some are segmented; the
others have masks already, as at the end of a run, where the bookkeeping is most. They are another tool's, which the job
leaves alone. All is asked once the server has looked at every picture, and the job is watched by its files, which costs
the server nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
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
MASKS = Path("labels", "original")  # below a study folder
SEGMENTED = 12  # studies whose cost is taken, `ROUND` of a run of the job, after `WARM` of them
WARM, ROUND = 2, 6
LEFT = 1 + WARM + ROUND + 1  # studies without a mask of another tool: the first is labelled, the last one not reached
REQUESTS = 20  # times that status and board are asked
QUIET = 0.02  # of a core, below which a server has nothing to do
LONGEST = 10_000
MOST_START, MOST_MILLISECONDS, MOST_KILOBYTES, MOST_GROWTH = 15.0, 50.0, 50.0, 1.1


@dataclass(frozen=True)
class ListCost:
    """Of a list of `studies` small pictures.

    Attributes:
        start: seconds until the server answered, of which `start_core` core seconds.
        milliseconds, core_milliseconds, kilobytes: of status and board, by their paths; medians and 95th percentiles of
            the answers, and the server's core milliseconds for one.
        study: core seconds of one study that the job segmented.
    """

    studies: int
    start: float
    start_core: float
    milliseconds: Mapping[str, tuple[float, float]]
    core_milliseconds: Mapping[str, float]
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
        write_masks(studies, label, range(LEFT, count))
        conf = {"labels": "disc", "models": str(Path(folder) / "models"), "auto_propagate": "false"}
        server = Server(studies, log=Path(folder) / "server.log", conf=conf, start_timeout=1800)
        began = time.perf_counter()
        with server, Client(server.url, timeout=600) as client:
            start, start_core = time.perf_counter() - began, core_seconds(server.url)
            client.save_label("study_00000", label, {"disc": 1})
            _wait_until_quiet(server.url)
            answers = {path: _cost_of_answer(server.url, path) for path in (STATUS, BOARD)}
            return ListCost(
                studies=count,
                start=round(start, 2),
                start_core=round(start_core, 2),
                milliseconds={path: times for path, (times, _, _) in answers.items()},
                core_milliseconds={path: core for path, (_, core, _) in answers.items()},
                kilobytes={path: size for path, (_, _, size) in answers.items()},
                study=round(_cost_of_study(client, server.url, studies / MASKS), 4),
            )


def targets(costs: Sequence[ListCost]) -> list[Target]:
    """What was promised of the longest list, and of how a study's cost grows from the shortest to the longest."""
    by_count = {cost.studies: cost for cost in costs}
    if LONGEST not in by_count:
        return []
    longest, shortest = by_count[LONGEST], by_count[min(by_count)]
    start = f"start at {LONGEST}, core s"
    values, bounds = {start: longest.start_core}, {start: MOST_START}
    for path in (STATUS, BOARD):
        time, size = f"{path} at {LONGEST}, core ms", f"{path} at {LONGEST}, kB"
        values |= {time: longest.core_milliseconds[path], size: longest.kilobytes[path]}
        bounds |= {time: MOST_MILLISECONDS, size: MOST_KILOBYTES}
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


def write_masks(studies: Path, label: Path, numbers: Iterable[int]) -> None:
    """A mask of another tool for each of these pictures, with its record."""
    (studies / MASKS).mkdir(parents=True)
    info = {"model": "another", "params": {"quality": {"disc": 0.9}}}
    record = json.dumps({"records": [{"sha256": hashlib.sha256(label.read_bytes()).hexdigest(), "info": info}]})
    for number in numbers:
        shutil.copy(label, studies / MASKS / f"study_{number:05}.png")
        (studies / MASKS / f"study_{number:05}.oneprompt.json").write_text(record)


def _wait_until_quiet(url: str) -> None:
    """Until the server has looked at every study, so that this costs nothing of what follows."""
    core, now, quiet = core_seconds(url), time.monotonic(), 0
    while quiet < 2:
        time.sleep(2)
        before, since = core, now
        core, now = core_seconds(url), time.monotonic()
        quiet = quiet + 1 if core - before < QUIET * (now - since) else 0


def _cost_of_answer(url: str, path: str) -> tuple[tuple[float, float], float, float]:
    """Milliseconds of a request, median and 95th percentile, its core milliseconds, and the kilobytes of its answer."""
    taken = []
    requests.get(url + path, timeout=600).raise_for_status()
    core = core_seconds(url)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        answer = requests.get(url + path, timeout=600)
        answer.raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    used = 1000 * (core_seconds(url) - core) / REQUESTS
    median, late = np.percentile(taken, (50, 95)).round(1).tolist()
    return (median, late), round(used, 1), round(len(answer.content) / 1000, 1)


def _cost_of_study(client: Client, url: str, masks: Path) -> float:
    """Core seconds of one study of the job, which begins anew until there were enough."""
    studies, seconds = 0, 0.0
    while studies < SEGMENTED:
        client.start_job()
        first, before = _wait_until_done(url, masks, WARM)
        last, after = _wait_until_done(url, masks, WARM + ROUND)
        studies, seconds = studies + last - first, seconds + after - before
        client.undo_job()
        _wait_until_quiet(url)
    return seconds / studies


def _wait_until_done(url: str, masks: Path, count: int) -> tuple[int, float]:
    """How many studies are done, that many or a few more, and the server's core seconds then.

    Raises:
        RuntimeError: the job ended before.
    """
    polls = 0
    wanted = [masks / f"study_{number:05}.nii.gz" for number in range(1, LEFT)]
    while (done := sum(map(Path.exists, wanted))) < count:
        time.sleep(0.05)
        polls += 1
        if not polls % 600 and (job := requests.get(url + STATUS, timeout=600).json()["job"])["idle"]:
            raise RuntimeError(f"the job must segment {count} studies, it ended with {job}")
    return done, core_seconds(url)
