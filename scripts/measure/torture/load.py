"""Many annotators at once: is every answer right, does the server stay quick, and does its memory stay flat."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import psutil
import requests

from scripts.measure.torture.lists import shape_of, write_studies, write_weights
from scripts.servers.client import Server


def torture_by_load(annotators: int, seconds: float) -> dict[str, Any]:
    """Let so many annotators click, each in a study of its own, for so long.

    Returns:
        Statuses, seconds of clicks and of /info/ meanwhile (median, 95th percentile), masks of other studies,
        memory, threads and open files of the server at the beginning and at the end.
    """
    statuses: Counter[str] = Counter()
    clicks: list[float] = []
    waits: list[float] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", annotators)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                "labels": "organ", "auto_propagate": "false"}  # fmt: skip
        with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900) as server:
            _click(server.url, 0, folder, statuses, clicks, wrong)
            before = _burden(server.pid)
            end = time.monotonic() + seconds

            def annotate(number: int) -> None:
                while time.monotonic() < end:
                    _click(server.url, number, folder, statuses, clicks, wrong)

            def look() -> None:
                while time.monotonic() < end:
                    started = time.monotonic()
                    answer = requests.get(f"{server.url}/info/", timeout=120)
                    waits.append(time.monotonic() - started)
                    statuses[f"info {answer.status_code}"] += 1
                    time.sleep(0.2)

            threads = [threading.Thread(target=annotate, args=(number,)) for number in range(annotators)]
            for thread in (*threads, watcher := threading.Thread(target=look)):
                thread.start()
            for thread in (*threads, watcher):
                thread.join()
            after = _burden(server.pid)
    return {
        "annotators": annotators, "seconds": seconds, "answers": dict(statuses), "wrong": wrong[:20],
        "click_seconds": _shown(clicks), "info_seconds": _shown(waits), "before": before, "after": after,
    }  # fmt: skip


def _click(url: str, number: int, folder: Path, statuses: Counter[str], clicks: list[float], wrong: list[str]) -> None:
    shape = shape_of(number)
    params = {"foreground": [[side // 2 for side in shape]], "label": "organ", "result_extension": ".nrrd"}
    started = time.monotonic()
    try:
        answer = requests.post(f"{url}/infer/oneprompt_click", params={"image": f"s{number}", "output": "image"},
                               data={"params": json.dumps(params)}, timeout=150)  # fmt: skip
    except requests.RequestException as error:
        statuses[type(error).__name__] += 1
        return
    clicks.append(time.monotonic() - started)
    statuses[f"click {answer.status_code}"] += 1
    if answer.ok:
        path = folder / f"answer{number}.nrrd"
        path.write_bytes(answer.content)
        if nrrd.read(str(path))[0].shape != shape:
            wrong.append(f"s{number}: a mask of another study")
    elif answer.status_code in (429, 503):
        time.sleep(float(answer.headers.get("retry-after", 1)))


def _burden(pid: int) -> dict[str, float]:
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
