"""Many annotators at once: is every answer right, does the server stay quick, and does its burden stay flat."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import psutil
import requests

from scripts.measure.torture.lists import click, label_file, shape_of, write_studies, write_weights
from scripts.servers.client import Server
from scripts.servers.processes import Launch

PAUSE = 0.2  # seconds between requests of /info/
TURNS = 8  # of an annotator's clicks one is followed by a saved label, which is fetched again
MORE_MB, MORE_THREADS, MORE_FILES = 200, 64, 32  # that a server may grow by after its first quarter; 64: its pool


@dataclass
class Notes:
    """What annotators meet with."""

    answers: Counter[str] = field(default_factory=Counter)
    clicks: list[float] = field(default_factory=list)
    info_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    masks: dict[int, str] = field(default_factory=dict)  # study: hash of the first answer, which all others must equal


def torture_by_load(annotators: int, seconds: float, launch: Launch) -> dict[str, Any]:
    """Let so many annotators click and save, each in a study of its own, for so long; `launch` starts the server.

    Returns:
        Statuses, seconds of clicks and of /info/ meanwhile (median, 95th percentile), masks that were another study's
        or other than the same click's before, the server's memory, threads and files at the beginning, after a quarter
        and at the end, and the machine's load average.
    """
    notes = Notes()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", annotators)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                "labels": "organ", "auto_propagate": "false"}  # fmt: skip
        with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900,
                    launch=launch) as server:  # fmt: skip
            burdens = [_burden(server.pid)]
            _annotate_together(server.url, annotators, seconds / 4, notes)
            burdens.append(_burden(server.pid))
            _annotate_together(server.url, annotators, seconds * 3 / 4, notes)
            burdens.append(_burden(server.pid))
    limits = {"mb": MORE_MB, "threads": MORE_THREADS, "files": MORE_FILES}
    quarter, end = burdens[1:]
    grown = [f"{what}: {quarter[what]} after a quarter, {end[what]} at the end" for what, more in limits.items()
             if end[what] > quarter[what] + more]  # fmt: skip
    errors = [f"{count} answers {kind}" for kind, count in notes.answers.items() if not kind.endswith(" 200")]
    return {
        "annotators": annotators, "seconds": seconds, "answers": dict(notes.answers),
        "click_seconds": _shown(notes.clicks), "info_seconds": _shown(notes.info_seconds),
        "burdens": dict(zip(("start", "quarter", "end"), burdens, strict=True)),
        "load_average": round(os.getloadavg()[1], 1), "wrong": [*notes.wrong[:20], *errors, *grown],
    }  # fmt: skip


def _annotate_together(url: str, annotators: int, seconds: float, notes: Notes) -> None:
    end = time.monotonic() + seconds

    def annotate(number: int) -> None:
        turn = 0
        while time.monotonic() < end:
            try:
                _click(url, number, notes)
                if (turn := turn + 1) % TURNS == 0:
                    _save(url, number, turn, notes)
            except requests.RequestException as error:
                notes.answers[type(error).__name__] += 1

    def look() -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                notes.answers[f"info {requests.get(f'{url}/info/', timeout=120).status_code}"] += 1
            except requests.RequestException as error:
                notes.answers[f"info {type(error).__name__}"] += 1
            notes.info_seconds.append(time.monotonic() - started)
            time.sleep(PAUSE)

    threads = [threading.Thread(target=annotate, args=(number,)) for number in range(annotators)]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _click(url: str, number: int, notes: Notes) -> None:
    started = time.monotonic()
    answer = click(url, number)
    notes.clicks.append(time.monotonic() - started)
    notes.answers[f"click {answer.status_code}"] += 1
    if answer.status_code in (429, 503):
        time.sleep(float(answer.headers.get("retry-after", 1)))
    elif answer.ok:
        with tempfile.NamedTemporaryFile(suffix=".nrrd") as file:
            Path(file.name).write_bytes(answer.content)
            mask = nrrd.read(file.name)[0]
        digest = hashlib.sha256(mask.tobytes()).hexdigest()
        if mask.shape != shape_of(number):
            notes.wrong.append(f"s{number}: a mask of another study")
        elif notes.masks.setdefault(number, digest) != digest:
            notes.wrong.append(f"s{number}: another mask than after the same click before")


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


def _burden(pid: int) -> dict[str, int]:
    process = psutil.Process(pid)
    return {
        "mb": round(process.memory_info().rss / 2**20),
        "threads": process.num_threads(),
        "files": process.num_fds(),
    }


def _shown(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        name: round(float(np.percentile(values, at)), 3) for name, at in (("median", 50), ("p95", 95), ("max", 100))
    }
