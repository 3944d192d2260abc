"""A server that is killed again and again while people save labels and its job makes masks."""

from __future__ import annotations

import gzip
import io
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests

from scripts.measure.torture.lists import write_label, write_studies, write_weights
from scripts.servers.client import Server

STUDIES = 6


def torture_by_kills(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Kill a server `rounds` times under load, and see after each start whether all that it acknowledged is there.

    Returns:
        How many labels were acknowledged, and what was wrong.
    """
    chance = random.Random(seed)
    wrong: list[str] = []
    saved: dict[str, list[np.ndarray]] = {}  # study: the last acknowledged label, then those that were under way
    count = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        ids = write_studies(folder / "studies", STUDIES)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models")}
        for number in range(rounds + 1):
            with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900) as server:
                wrong += [f"round {number}: {problem}" for problem in _problems(server.url, folder / "studies", saved)]
                if number == rounds:
                    break
                stop = threading.Event()
                acknowledged: list[int] = []
                savers = [
                    threading.Thread(
                        target=_save, args=(server.url, folder, ids[k], k, number, saved, acknowledged, stop)
                    )
                    for k in range(STUDIES // 2)
                ]
                for saver in savers:
                    saver.start()
                time.sleep(chance.uniform(0.2, 2.0))
                server.kill()
                stop.set()
                for saver in savers:
                    saver.join()
                count += len(acknowledged)
    return {"kills": rounds, "acknowledged": count, "wrong": wrong[:20]}


def _save(url: str, folder: Path, study: str, number: int, seed: int, saved: dict[str, list[np.ndarray]],
          acknowledged: list[int], stop: threading.Event) -> None:  # fmt: skip
    path = folder / f"label-{study}.nii.gz"
    for turn in range(10_000):
        if stop.is_set():
            return
        mask = write_label(path, number, hash((study, seed, turn)) % 2**32)
        saved.setdefault(study, []).append(mask)
        info = {"label_info": [{"name": "organ", "idx": 1}], "turn": turn}
        try:
            files = {"label": (path.name, path.read_bytes())}
            data = {"params": json.dumps(info)}
            answer = requests.put(f"{url}/datastore/label", params={"image": study}, data=data, files=files, timeout=30)
        except requests.RequestException:
            return
        if answer.ok:
            acknowledged.append(turn)
            saved[study] = [mask]


def _problems(url: str, studies: Path, saved: dict[str, list[np.ndarray]]) -> list[str]:
    """What is not as it must be after a start."""
    problems = []
    for study, candidates in saved.items():
        answer = requests.get(f"{url}/datastore/label", params={"label": study, "tag": "final"}, timeout=60)
        if not answer.ok:
            if len(candidates) == 1:
                problems.append(f"{study}: an acknowledged label is gone ({answer.status_code})")
            continue
        stored = np.asarray(nibabel.Nifti1Image.from_stream(_unpacked(answer.content)).dataobj)
        if not any(np.array_equal(stored, candidate) for candidate in candidates):
            problems.append(f"{study}: another label than any that was saved")
    json.loads((studies / "datastore_v2.json").read_text())
    problems += [f"left behind: {path.name}" for path in studies.rglob(".*.tmp")]
    status = requests.get(f"{url}/oneprompt/status", timeout=60).json()
    problems += [f"left out: {name}" for name in status["unreadable"]["files"]]
    return problems


def _unpacked(content: bytes) -> io.BytesIO:
    return io.BytesIO(gzip.decompress(content))
