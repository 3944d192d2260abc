"""A server that is killed again and again, while people save labels, click and judge, and its job works."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests

from scripts.measure.torture.lists import click, label_file, write_studies, write_weights
from scripts.servers.client import Client, Server, ServerError
from scripts.servers.processes import Launch

STUDIES, SAVERS = 6, 3  # studies of the list; the first of them get labels of people, the others masks of the job
PATIENCE = 3600.0  # seconds: trainings let everything else go first
TRAINING = "epochs=2,steps=2,batch=1,queries=1"


@dataclass
class Saved:
    """What a person saved for one study.

    Attributes:
        acknowledged: (turn, voxels) of the last label that the server said it has; None before the first.
        underway: of labels that it was sent and said nothing about.
    """

    acknowledged: tuple[int, np.ndarray] | None = None
    underway: list[tuple[int, np.ndarray]] = field(default_factory=list)


def torture_by_kills(rounds: int, seed: int, train_every: int, launch: Launch) -> dict[str, Any]:
    """Kill a server `rounds` times under load, and see after each start whether all that it acknowledged is there.

    Args:
        rounds: kills.
        seed: of moments and labels.
        train_every: in one of so many rounds a training is under way too, whose next process must bring it to its end;
            0 for none.
        launch: starts a server.

    Returns:
        What was acknowledged before the kills, seconds of a start, and what was wrong.
    """
    chance = random.Random(seed)
    saved = {f"s{number}": Saved() for number in range(SAVERS)}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    starts: list[float] = []
    trains = False
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", STUDIES)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                "labels": "organ", "finetuning": TRAINING, "specialist": "0"}  # fmt: skip
        for number in range(rounds + 1):
            began = time.monotonic()
            with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=PATIENCE,
                        launch=launch) as server:  # fmt: skip
                starts.append(time.monotonic() - began)
                problems = problems_of(server, folder / "studies", saved)
                if trains or number == rounds:
                    problems += _finished(server.url, trains)
                    counts["trainings that went on"] += trains
                wrong += [f"round {number}: {problem}" for problem in problems]
                print(
                    f"{number} kills, start {starts[-1]:.1f} s, {dict(counts)}", *problems, sep="\n  ", file=sys.stderr
                )
                if number == rounds:
                    break
                trains = bool(train_every) and number % train_every == train_every - 1
                _work_and_kill(server, saved, number, counts, chance.uniform(0.2, 4.0), trains)
    return {
        "kills": rounds, "acknowledged": dict(counts), "start_seconds": round(float(np.median(starts)), 1),
        "wrong": wrong[:20],
    }  # fmt: skip


def _work_and_kill(server: Server, saved: Mapping[str, Saved], number: int, counts: Counter[str], seconds: float,
                   trains: bool) -> None:  # fmt: skip
    """Load of every kind, cut off after so many seconds; after a training's first epoch where one is wanted."""
    stop = threading.Event()
    url = server.url

    def again_and_again(name: str, act: Callable[[int], bool]) -> threading.Thread:
        def run() -> None:
            for turn in range(100_000):
                if stop.is_set():
                    return
                try:
                    counts[name] += act(turn)
                except (requests.RequestException, ServerError):
                    return

        return threading.Thread(target=run)

    workers = [
        *(again_and_again("labels", partial(_save, url, study, what, 1000 * number)) for study, what in saved.items()),
        again_and_again("clicks", lambda turn: click(url, STUDIES - 1).ok),
        again_and_again("decisions", lambda turn: _decide(url, turn)),
        again_and_again("uploads", lambda turn: _upload(url, turn)),
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    if trains:
        _train(url)
    stop.wait(seconds)
    server.kill()
    stop.set()
    for worker in workers:
        worker.join()


def _save(url: str, study: str, saved: Saved, first: int, turn: int) -> bool:
    return save(url, study, saved, first + turn).ok


def save(url: str, study: str, saved: Saved, turn: int) -> requests.Response:
    """Save a label that no other turn has, and note whether it was acknowledged."""
    content, mask = label_file(int(study[1:]), zlib.crc32(f"{study} {turn}".encode()))
    saved.underway.append((turn, mask))
    params = {"label_info": [{"name": "organ", "idx": 1}], "client_id": "torture", "turn": turn}
    answer = requests.put(f"{url}/datastore/label", params={"image": study}, data={"params": json.dumps(params)},
                          files={"label": (f"{study}.nii.gz", content)}, timeout=60)  # fmt: skip
    if answer.ok:
        saved.acknowledged, saved.underway = (turn, mask), []
    return answer


def _decide(url: str, turn: int) -> bool:
    """What a reviewer does on the board with the masks of the job."""
    action = ("accept", "undo", "reject", "again")[turn % 4]
    ids = [f"s{number}" for number in range(SAVERS, STUDIES)]
    return requests.post(f"{url}/oneprompt/{action}", json={"ids": ids}, timeout=60).ok


def _upload(url: str, turn: int) -> bool:
    """An image that comes, and goes again; the same in every round, or the list would grow with the kills."""
    name = "x"
    if turn % 2:
        return requests.delete(f"{url}/datastore/image", params={"id": name}, timeout=60).ok
    content, _ = label_file(0, 0)
    return requests.put(f"{url}/datastore/image", params={"image": name}, timeout=60,
                        files={"file": (f"{name}.nii.gz", content)}).ok  # fmt: skip


def _train(url: str) -> None:
    """Start a training and wait for its first epoch, from whose checkpoint the next process goes on."""
    with Client(url) as client:
        end = time.monotonic() + PATIENCE
        while not client.status()["templates"] and time.monotonic() < end:
            time.sleep(0.2)
        client.train()
        while time.monotonic() < end:
            training = client.training()
            if (training["state"] == "running" and training.get("epoch")) or training["state"] == "failed":
                return
            time.sleep(0.2)


def _finished(url: str, trains: bool) -> list[str]:
    """Let the job, and a training that was cut off, come to their ends; what went wrong with them."""
    with Client(url) as client:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            job, training = client.status()["job"], client.training()
            if job["idle"] and (not trains or training["state"] not in ("running", "idle")):
                break
            time.sleep(0.5)
        else:
            return [f"job and training did not end: {job['state']}, {training['state']}"]
        rows = client.rows()
    problems = [f"the training ended as {training['state']}: {training['reason']}"
             for _ in range(trains) if training["state"] not in ("published", "candidate")]  # fmt: skip
    if job["state"] not in ("done", "idle") or job["failed"]:
        problems.append(f"the job ended as {job['state']}: {job['failed']}")
    return problems + [f"{row['id']}: left {row['status']} by the job" for row in rows if row["status"] == "unlabelled"]


def problems_of(server: Server, studies: Path, saved: Mapping[str, Saved]) -> list[str]:
    """What is not as it must be with the labels, records and files of a server that nobody asks now."""
    problems = [problem for study, what in saved.items() for problem in _of_label(server.url, study, what)]
    problems += [f"left behind: {path.name}" for path in studies.parent.rglob(".*.tmp")]
    problems += [f"left behind: {path.name}" for path in Path(tempfile.gettempdir()).glob("oneprompt-*")
              if (pid := path.name.split("-")[1]).isdigit() and not Path(f"/proc/{pid}").exists()]  # fmt: skip
    status = requests.get(f"{server.url}/oneprompt/status", timeout=60).json()
    problems += [f"left out: {name}: {why}" for name, why in status["unreadable"]["files"].items()]
    index = json.loads((studies / "datastore_v2.json").read_text())["objects"]
    for study, entry in index.items():
        problems += (
            [] if (studies / f"{study}{entry['image']['ext']}").exists() else [f"{study}: listed without a file"]
        )
        for tag, label in entry["labels"].items():
            problems += _of_files(studies / "labels" / tag, study, label["ext"], tag)
    return problems


def _of_label(url: str, study: str, saved: Saved) -> list[str]:
    """Whether a person's label is the last one that was acknowledged, or one that was on its way after it."""
    answer = requests.get(f"{url}/datastore/label", params={"label": study, "tag": "final"}, timeout=60)
    if not answer.ok:
        return [f"{study}: an acknowledged label is gone ({answer.status_code})"] if saved.acknowledged else []
    info = requests.get(f"{url}/datastore/label/info", params={"label": study, "tag": "final"}, timeout=60).json()
    content = io.BytesIO(gzip.decompress(answer.content))
    stored = np.asarray(nibabel.Nifti1Image.from_stream(content).dataobj)
    candidates = [*([saved.acknowledged] if saved.acknowledged else []), *saved.underway]
    for turn, mask in candidates:
        if np.array_equal(stored, mask):
            saved.acknowledged, saved.underway = (turn, mask), []
            return (
                [] if info.get("turn") == turn else [f"{study}: the record is of turn {info.get('turn')}, not {turn}"]
            )
    return [f"{study}: another label than any that was saved"]


def _of_files(folder: Path, study: str, extension: str, tag: str) -> list[str]:
    """Whether a label's record speaks of the bytes of its file."""
    file, record = folder / f"{study}{extension}", folder / f"{study}.oneprompt.json"
    if not file.exists() or not record.exists():
        return [f"{study}: label {tag} is listed without its file or record"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = [one["sha256"] for one in json.loads(record.read_text())["records"]]
    return [] if digest in known else [f"{study}: the record of {tag} speaks of other bytes"]
