"""Many annotators at once: is every answer right, does the server stay quick, and does its burden stay flat."""

from __future__ import annotations

import io
import os
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import psutil
import requests

from scripts.measure.torture.lists import click, label_file, middle, shape_of, write_studies, write_weights
from scripts.servers.client import Server
from scripts.servers.processes import Launch

PAUSE = 0.2  # seconds between requests of /info/
SAMPLES = 40  # of the server's burden, spread over the time
AGAIN = 0.5  # chance that an annotator clicks where the last click was, as after an undo
REACH = 8  # clicks go so small a part of a side, at most, from the middle
TURNS = 8  # of an annotator's clicks one is followed by a saved label, which is fetched again
ALONE = 2  # of each annotator's answers are compared with those of a server that answers nobody else
ROUNDING = 0.001  # of a mask's voxels: slices that were encoded beside others round otherwise in their last bit
MORE = {"mb": 200, "threads": 32, "files": 32}  # than in its first half that a server may come to in the second

Click = tuple[int, tuple[int, ...]]  # study and voxel


@dataclass
class Notes:
    """What annotators meet with."""

    answers: Counter[str] = field(default_factory=Counter)
    clicks: list[float] = field(default_factory=list)
    info_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    masks: dict[Click, np.ndarray] = field(default_factory=dict)  # the first answer, which all others must equal
    burdens: list[dict[str, int]] = field(default_factory=list)
    refused: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # words, and seconds until each


def torture_by_load(annotators: int, seconds: float, launch: Launch, think: float = 0) -> dict[str, Any]:
    """Let annotators click and save, each in a study of its own.

    Args:
        annotators: how many.
        seconds: for so long.
        launch: starts the servers.
        think: seconds, on average, that an annotator looks at an answer before clicking again.

    Returns:
        Statuses, seconds of clicks and of /info/ meanwhile (median, 95th percentile), how many places were clicked
        and masks compared with those of a second server that answers nobody else, masks that were another study's or
        other than the same click's, the server's memory, threads and files from the start to the end, and the
        machine's load average.
    """
    notes = Notes()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", annotators)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                "labels": "organ", "auto_propagate": "false"}  # fmt: skip
        server = Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900, launch=launch)
        with server:
            _annotate_together(server, annotators, seconds, think, notes)
            load = os.getloadavg()[1]
        with server:
            compared = _compare_alone(server.url, notes)
    errors = [f"{count} answers {kind}" for kind, count in notes.answers.items() if not kind.endswith(" 200")]
    quarters = [notes.burdens[round(share * (len(notes.burdens) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "annotators": annotators, "seconds": seconds, "think": think, "answers": dict(notes.answers),
        "refused": dict(notes.refused),
        "places": len(notes.masks), "compared_alone": compared, "click_seconds": _shown(notes.clicks),
        "info_seconds": _shown(notes.info_seconds),
        "burdens": dict(zip(("start", "quarter", "half", "three_quarters", "end"), quarters, strict=True)),
        "load_average": round(load, 1), "wrong": [*notes.wrong[:20], *errors, *_grown(notes.burdens)],
    }  # fmt: skip


def _annotate_together(server: Server, annotators: int, seconds: float, think: float, notes: Notes) -> None:
    end = time.monotonic() + seconds
    over = threading.Event()

    def annotate(number: int) -> None:
        chance, turn = random.Random(number), 0
        place: tuple[int, ...] = middle(number)
        while time.monotonic() < end:
            try:
                _click(server.url, (number, place), notes)
                if (turn := turn + 1) % TURNS == 0:
                    _save(server.url, number, turn, notes)
            except requests.RequestException as error:
                notes.answers[type(error).__name__] += 1
            over.wait(chance.uniform(0, 2 * think))
            if chance.random() > AGAIN:
                place = _near(number, chance)

    def look() -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                notes.answers[f"info {requests.get(f'{server.url}/info/', timeout=120).status_code}"] += 1
            except requests.RequestException as error:
                notes.answers[f"info {type(error).__name__}"] += 1
            notes.info_seconds.append(time.monotonic() - started)
            time.sleep(PAUSE)

    def weigh() -> None:
        while not over.wait(seconds / SAMPLES):
            notes.burdens.append(_burden(server.pid))

    notes.burdens.append(_burden(server.pid))
    threads = [threading.Thread(target=annotate, args=(number,)) for number in range(annotators)]
    threads.append(threading.Thread(target=look))
    weigher = threading.Thread(target=weigh)
    for thread in (*threads, weigher):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    weigher.join()
    notes.burdens.append(_burden(server.pid))


def _near(number: int, chance: random.Random) -> tuple[int, ...]:
    """A voxel near the middle of a study."""
    reach = [max(side // REACH, 1) for side in shape_of(number)]
    return tuple(at + chance.randint(-far, far) for at, far in zip(middle(number), reach, strict=True))


def _click(url: str, at: Click, notes: Notes) -> None:
    number, place = at
    started = time.monotonic()
    answer = click(url, number, place=place)
    notes.clicks.append(time.monotonic() - started)
    notes.answers[f"click {answer.status_code}"] += 1
    if not answer.ok:
        notes.refused[f"{answer.status_code} {answer.text[:300]}"].append(round(notes.clicks[-1]))
    if answer.status_code in (429, 503):
        time.sleep(float(answer.headers.get("retry-after", 1)))
    elif answer.ok:
        mask = _mask(answer.content)
        if mask.shape != shape_of(number):
            notes.wrong.append(f"s{number}: a mask of another study")
        elif not np.array_equal(notes.masks.setdefault(at, mask), mask):
            notes.wrong.append(f"s{number}: another mask than after the same click before, {place}")


def _save(url: str, number: int, turn: int, notes: Notes) -> None:
    """Save a draft, which no later click depends on, and fetch it."""
    study, (content, _) = f"s{number}", label_file(number, turn)
    answer = requests.put(f"{url}/datastore/label", params={"image": study, "tag": "draft"}, timeout=150,
                          files={"label": (f"{study}.nii.gz", content)})  # fmt: skip
    notes.answers[f"save {answer.status_code}"] += 1
    stored = requests.get(f"{url}/datastore/label", params={"label": study, "tag": "draft"}, timeout=150)
    notes.answers[f"fetch {stored.status_code}"] += 1
    if stored.ok and stored.content != content:
        notes.wrong.append(f"s{number}: another label than was saved")


def _compare_alone(url: str, notes: Notes) -> int:
    """Ask some of each study's clicks again, one after the other; how many masks were compared."""
    chance, compared = random.Random(0), 0
    for number in sorted({number for number, _ in notes.masks}):
        places = sorted(place for study, place in notes.masks if study == number)
        for place in chance.sample(places, min(ALONE, len(places))):
            answer = click(url, number, place=place)
            compared += 1
            before = notes.masks[number, place]
            if not answer.ok or np.count_nonzero(_mask(answer.content) != before) > ROUNDING * before.size:
                notes.wrong.append(f"s{number}: another mask than where nobody else asks, {place}")
    return compared


def _mask(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    mask: np.ndarray = nrrd.read_data(nrrd.read_header(file), file)
    return mask


def _burden(pid: int) -> dict[str, int]:
    process = psutil.Process(pid)
    return {
        "mb": round(process.memory_info().rss / 2**20),
        "threads": process.num_threads(),
        "files": process.num_fds(),
    }


def _grown(burdens: list[dict[str, int]]) -> list[str]:
    """What came to more in the second half than in the first."""
    first, second = burdens[: len(burdens) // 2 + 1], burdens[len(burdens) // 2 :]
    most = {what: (max(one[what] for one in first), max(one[what] for one in second)) for what in MORE}
    return [f"{what}: {before} at most in the first half, {after} in the second"
            for what, (before, after) in most.items() if after > before + MORE[what]]  # fmt: skip


def _shown(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        name: round(float(np.percentile(values, at)), 3) for name, at in (("median", 50), ("p95", 95), ("max", 100))
    }
