"""A study folder on a share that goes and comes while people save.

As root the share is a file system of its own, mounted, unmounted under the server (lazily, so that nothing is told to
whoever uses it) and mounted again; elsewhere a folder that is renamed away, with an empty one in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import requests

from scripts.measure.torture.kills import Saved, problems_of, save
from scripts.measure.torture.lists import click, write_studies, write_weights
from scripts.servers.client import Server
from scripts.servers.processes import Launch

SAVERS = 2
HERE, AWAY = 2.0, 3.0  # seconds for which the share is there and away
BACK = 150.0  # seconds within which all must go on
MEGABYTES = 256  # health warns below 64 that are free


class Share(Protocol):
    """A folder that may be away."""

    def go(self) -> None: ...
    def come(self) -> None: ...


class Mounted:
    """A file system in a file, mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._image = folder, folder.with_name("share.img")
        with self._image.open("wb") as image:
            image.truncate(MEGABYTES * 2**20)
        subprocess.run(["mkfs.ext4", "-q", str(self._image)], check=True, capture_output=True)
        folder.mkdir()
        self.come()

    def come(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self._folder)], check=True, capture_output=True)

    def go(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True, capture_output=True)


class Renamed:
    """A folder that is renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._away = folder, folder.with_name("away")
        folder.mkdir()

    def come(self) -> None:
        self._folder.rmdir()
        self._away.rename(self._folder)

    def go(self) -> None:
        self._folder.rename(self._away)
        self._folder.mkdir()


def torture_by_share(rounds: int, launch: Launch) -> dict[str, Any]:
    """Take the study folder away under a server `rounds` times and give it back, while labels are saved.

    Returns:
        How it was taken away, statuses of answers while it was there and away, and what was wrong: a label that was
        acknowledged and is gone, one that was acknowledged while nothing could be written, an answer without words,
        files in the empty folder, a server that does not go on.
    """
    saved = {f"s{number}": Saved() for number in range(SAVERS)}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name).resolve()
        studies = folder / "studies"
        with _share(studies) as share:
            write_studies(studies, SAVERS + 1)
            conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                    "labels": "organ"}  # fmt: skip
            with Server(studies, log=folder / "server.log", conf=conf, start_timeout=900, launch=launch) as server:
                for number in range(rounds):
                    problems = _round(server, share, studies, saved, number, counts)
                    wrong += [f"round {number}: {problem}" for problem in problems]
                    print(f"{number + 1} times away, {dict(counts)}", *problems, sep="\n  ", file=sys.stderr)
        return {"rounds": rounds, "how": type(share).__name__.lower(), "answers": dict(counts), "wrong": wrong[:20]}


def _round(
    server: Server, share: Share, studies: Path, saved: Mapping[str, Saved], number: int, counts: Counter[str]
) -> list[str]:
    stop, away = threading.Event(), threading.Event()
    wrong: list[str] = []

    def save_on(study: str) -> None:
        for turn in range(1000 * number, 1000 * (number + 1)):
            if stop.is_set():
                return
            while_away = away.is_set()
            answer = save(server.url, study, saved[study], turn)
            while_away = while_away and away.is_set()
            counts[f"{'away' if while_away else 'there'} {answer.status_code}"] += 1
            if while_away and (answer.status_code != 503 or str(studies) not in answer.text):
                wrong.append(f"{study}: a label is answered with {answer.status_code} while away: {answer.text[:200]}")

    savers = [threading.Thread(target=save_on, args=(study,)) for study in saved]
    for saver in savers:
        saver.start()
    time.sleep(HERE)
    share.go()
    away.set()
    time.sleep(AWAY)
    answer = click(server.url, SAVERS)
    if answer.status_code != 503 or str(studies) not in answer.text:
        wrong.append(f"a click is answered with {answer.status_code} while away: {answer.text[:200]}")
    away.clear()
    stop.set()
    for saver in savers:
        saver.join()
    wrong += [f"{path.name} was written where the folder should be" for path in studies.rglob("*")]
    for path in studies.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    share.come()
    if not _goes_on(server.url, saved, number):
        return [*wrong, "it does not go on"]
    return wrong + problems_of(server, studies, saved)


def _goes_on(url: str, saved: Mapping[str, Saved], number: int) -> bool:
    end = time.monotonic() + BACK
    while time.monotonic() < end:
        answers = [save(url, study, what, 1000 * number + 999) for study, what in saved.items()]
        well = all(answer.ok for answer in answers) and click(url, SAVERS).ok
        if well and requests.get(f"{url}/oneprompt/health", timeout=BACK).ok:  # the job tries again every minute
            return True
        time.sleep(0.2)
    return False


@contextmanager
def _share(folder: Path) -> Iterator[Share]:
    share = _mounted(folder) or Renamed(folder)
    try:
        yield share
    finally:
        if isinstance(share, Mounted):
            share.go()


def _mounted(folder: Path) -> Mounted | None:
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        return None
    try:
        return Mounted(folder)
    except subprocess.CalledProcessError as error:  # in a container that may not mount
        print(f"a folder is renamed instead: {error.stderr.decode()}", file=sys.stderr)
        folder.rmdir()
        return None
