"""The four ways to work through a study list, each against a real server.

A way keeps its own copy of the studies and a log of what each study cost. Both outlive an interruption: what the log
holds is not done again, and the server goes on with its list as after any restart.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import write_atomically
from lib.imaging.images import Image, read_image, read_label, write_label
from lib.imaging.metrics import dice
from lib.imaging.volumes import Stack
from scripts.measure.simulation.annotator import Annotator, Work, ask_server
from scripts.measure.simulation.goals import GOALS, MOST_CLICKS
from scripts.measure.simulation.outlines import by_hand
from scripts.measure.study_list import Study, Truth, copy_studies
from scripts.servers.client import Client, Server, ServerError

WAYS = ("hand", "interactive", "random", "full")
_POLL = 0.25  # seconds


def taught(cases: Mapping[str, int], entries: Sequence[Mapping[str, Any]], least: int) -> bool:
    """Whether so many corrected cases of every structure that was drawn stand behind the predictions.

    Args:
        cases: {structure: corrected cases}, as the server counts them.
        entries: of the log, one a study.
    """
    return all(cases.get(name, 0) >= least for entry in entries for name in entry["structures"])


@dataclass(frozen=True)
class StudyList:
    """The studies with their truth; every study needs one."""

    studies: Sequence[Study]
    truth: Truth

    def image(self, study: Study) -> Image:
        return read_image(study.path)

    def masks(self, study: Study) -> dict[str, np.ndarray]:
        """{structure: bool array}."""
        self.truth.need(study)
        label = self.truth.read(study)
        assert label is not None
        return {name: label == value for name, value in self.truth.structures(label).items()}


@dataclass(frozen=True)
class Plan:
    """How to simulate.

    Attributes:
        accept_at: the full loop accepts masks predicted this good without a look,
        correct_first: once so many cases of each structure taught the list what its predictions are worth.
        most_clicks: on one structure of one study.
        patience: seconds without news from the job.
        conf: further settings of the app.
        hand: how the annotator corrects (`annotator.HANDS`).
    """

    accept_at: float = 0.85
    correct_first: int = 3
    most_clicks: int = MOST_CLICKS
    seed: int = 0
    patience: float = 900
    conf: Mapping[str, str] = field(default_factory=dict)
    hand: str = "clicks"


class Log:
    """What each study cost, in one file that is written whole after each; begins with what the file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        write_atomically(self.path, json.dumps(self.entries, indent=1).encode())

    @property
    def ids(self) -> set[str]:
        return {entry["id"] for entry in self.entries}


def hand(studies: StudyList, log: Log) -> None:
    """Every structure of every study is drawn from nothing; no server can help with that."""
    for study in studies.studies:
        if study.id in log.ids:
            continue
        axis = Stack.of(studies.image(study)).own_axis
        clicks = by_hand(studies.masks(study), axis, GOALS)
        work = {name: Work(0.0, [], corners).to_dict() for name, corners in clicks.items()}
        log.add({"id": study.id, "structures": work, "final": dict.fromkeys(work, GOALS[-1])})


def ordered(way: str, studies: Sequence[Study], seed: int) -> list[Study]:
    """The studies in the order of a way that chooses them itself."""
    order = list(studies)
    if way == "random":
        random.Random(seed).shuffle(order)
    return order


def record(
    study: Study,
    image: Image,
    truth: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    work: Mapping[str, Work],
    predicted: Any,
    folder: Path,
    log: Log,
) -> None:
    """Write the label that an annotator made of a study into a way's folder, and what it cost into its log."""
    label = np.zeros(image.array.shape, np.uint8)
    for value, mask in enumerate(masks.values(), start=1):
        label[mask & (label == 0)] = value
    path = folder / "labels" / f"{study.id}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    write_label(path, label, image)
    final = {name: round(dice(label == value, truth[name]), 4) for value, name in enumerate(masks, start=1)}
    records = {name: one.to_dict() for name, one in work.items()}
    log.add({"id": study.id, "structures": records, "final": final, "predicted": predicted})


class Loop:
    """One of the ways that need a server.

    Args:
        way: `interactive`, `random` or `full`.
        folder: of this way; made where missing.
    """

    def __init__(self, way: str, studies: StudyList, plan: Plan, folder: Path) -> None:
        self.way, self.plan, self.folder = way, plan, folder
        self.studies = {study.id: study for study in studies.studies}
        self.list = studies
        self.log = Log(folder / "log.json")

    def run(self) -> list[str]:
        """Work until every study is done; returns the ids that were accepted unseen."""
        copy = self.folder / "studies"
        if not copy.exists():
            copy_studies(list(self.studies.values()), copy)
        conf = {"models": str(self.folder / "models"), "quiet_seconds": "3600", **self.plan.conf}
        conf |= {"auto_propagate": "false"} if self.way == "interactive" else {}
        server = Server(copy, log=self.folder / "server.log", conf=conf, cwd=self.folder)
        with server, Client(server.url, timeout=600) as client:
            self._save_again(client)
            while study := self._next(client, server):
                self._work_on(study, client)
            accepted = [row["id"] for row in client.rows() if row["status"] == "accepted"]
            (self.folder / "accepted").mkdir(exist_ok=True)
            unseen = []
            for id in accepted:
                path = client.download_label(id, "final", self.folder / "accepted")
                unseen.append({"id": id, "dice": self._dice(id, path, client.label_info(id, "final"))})
            write_atomically(self.folder / "unseen.json", json.dumps(unseen, indent=1).encode())
        return accepted

    def _next(self, client: Client, server: Server) -> Study | None:
        if self.way != "interactive" and self.log.entries:
            self._settle(client, server)
            while self.way == "full" and self._taught(client) and client.accept_above(self.plan.accept_at):
                self._settle(client, server)  # what was accepted is a template, so more may reach the bound now
        done = self.log.ids | {row["id"] for row in client.rows() if row["status"] == "accepted"}
        left = [id for id in self.studies if id not in done]
        if not left:
            return None
        if self.way == "full":
            if not self.log.entries:
                self._wait_for_descriptors(client, server)
            id = client.next_sample("oneprompt_next" if self.log.entries else "oneprompt_first")
            assert id in left, f"the server offers {id!r}, which is done"
            return self.studies[id]
        return next(study for study in ordered(self.way, self.list.studies, self.plan.seed) if study.id in left)

    def _taught(self, client: Client) -> bool:
        return taught(client.status()["corrections"], self.log.entries, self.plan.correct_first)

    def _work_on(self, study: Study, client: Client) -> None:
        image, truth = self.list.image(study), self.list.masks(study)
        start, predicted = self._automatic(study, image, client)
        ask = ask_server(client, study.id, image)
        annotator = Annotator(image, truth, ask, GOALS, self.plan.most_clicks, self.plan.hand)
        masks, work = annotator.annotate(start)
        record(study, image, truth, masks, work, predicted, self.folder, self.log)
        self._save(study.id, client)

    def _automatic(self, study: Study, image: Image, client: Client) -> tuple[dict[str, np.ndarray], Any]:
        row = next(row for row in client.rows() if row["id"] == study.id)
        if row["status"] != "automatic" or self.way == "interactive":
            return {}, None
        folder = self.folder / "masks"
        folder.mkdir(exist_ok=True)
        mask = read_label(client.download_label(study.id, "original", folder), like=image)
        names = client.label_info(study.id, "original")["params"]["label_names"]
        return {name: mask == value for name, value in names.items()}, row["predicted"]

    def _save(self, id: str, client: Client) -> None:
        names = next(entry["structures"] for entry in self.log.entries if entry["id"] == id)
        values = {name: value for value, name in enumerate(names, start=1)}
        client.save_label(id, self.folder / "labels" / f"{id}.nii.gz", values)

    def _save_again(self, client: Client) -> None:
        """What the log holds and the server lacks: the simulation was interrupted between the two."""
        lacking = [row["id"] for row in client.rows() if row["status"] not in ("template", "accepted")]
        for id in lacking:
            if id in self.log.ids:
                self._save(id, client)

    def _settle(self, client: Client, server: Server) -> None:
        """Wait until the job has nothing left to do."""
        last, before = time.monotonic(), None
        while True:
            server.check()
            rows, job = client.rows(), client.status()["job"]
            open_ = [r["id"] for r in rows if r["status"] == "unlabelled" or (r["outdated"] and not r["reason"])]
            if not open_ and job["state"] not in ("running", "cancelling"):
                return
            if job["state"] == "failed":
                raise ServerError(f"the job failed: {job['failed']}")
            now = (len(open_), job["done"], job["current"])
            last, before = (time.monotonic(), now) if now != before else (last, before)
            if time.monotonic() - last > self.plan.patience:
                raise ServerError(f"the job made no progress for {self.plan.patience:g} s: {job}")
            time.sleep(_POLL)

    def _wait_for_descriptors(self, client: Client, server: Server) -> None:
        """The first study is chosen well only after the server has looked at all of them."""
        cache = self.folder / "studies" / ".oneprompt" / "looks.npz"
        end = time.monotonic() + self.plan.patience
        while time.monotonic() < end:
            server.check()
            if cache.exists():
                with np.load(cache) as arrays:
                    if len(arrays["ids"]) == len(self.studies):
                        return
            time.sleep(_POLL)
        raise ServerError("the server has not looked at every study in time")

    def _dice(self, id: str, path: Path, info: Mapping[str, Any]) -> dict[str, float]:
        study = self.studies[id]
        image, truth = self.list.image(study), self.list.masks(study)
        label = read_label(path, like=image)
        values = {entry["name"]: entry["idx"] for entry in info["label_info"]}
        return {name: round(dice(label == values.get(name, -1), mask), 4) for name, mask in truth.items()}
