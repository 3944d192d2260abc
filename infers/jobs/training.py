"""Trainings as the server sees them: start, queue, stop, go on after a kill, and start by themselves after N labels.

The training itself is MONAI Label's subprocess (`trainers/`), one at a time. What it says about itself is in
`training.json` (`lib/finetuning/training_record.py`) in its trainer's folder; whether it still lives, only the
processes know.
"""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from monailabel.endpoints import train
from monailabel.utils.async_tasks import utils as processes

from infers.errors import Busy, ClientError, NotFound
from infers.patches.async_tasks import snapshot
from infers.study_list.studies import LIST_UNET, MODEL, Studies
from lib.finetuning.training_record import FAILED, RUNNING, STOPPED, read_record, update_record

logger = logging.getLogger(__name__)

TRY_AGAIN = 60  # seconds
LEAST_ROOM = 200 * 2**20  # bytes: checkpoints, statistics and a version of the shipped weights
WHERE = ("device", "gpus", "multi_gpu", "tracking")  # what the training that follows another one takes over
INTERRUPTED = (
    "the training process ended without a word: it was killed, or the machine went down. What is served did not "
    "change; Train goes on after the last whole epoch."
)
FULL = (
    "the training process ended on a full disk: {} has {} MB free. What is served did not change; make room, and Train "
    "goes on after the last whole epoch."
)
SILENT = (
    "the training process ended before it began. What is served did not change; see the server's log, mend what it "
    "says, and train again."
)


class Trainings:
    """Trainings on one study list, of One-Prompt and of a list-specific U-Net.

    Args:
        folders: trainer's name to its folder of runs and records; One-Prompt's is `MODEL`.
        studies: the study list.
        every: start one of One-Prompt after so many new final labels; 0 never.
        beside: one of One-Prompt is followed by one of a list-specific U-Net from so many labelled studies on; 0 never.
        room: bytes that must be free on the disk before one starts.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        studies: Studies,
        every: int = 0,
        beside: int = 0,
        room: int = LEAST_ROOM,
        run: Callable[..., Any] = train.run_model,
    ) -> None:
        self._folders, self._studies, self._room, self._run = dict(folders), studies, room, run
        self._every, self._beside = every, beside
        self._lock = threading.Lock()

    def start(self, params: Mapping[str, Any], enqueue: bool = False, name: str = MODEL) -> dict[str, Any]:
        """Start a training, or let it wait for the one under way; MONAI Label's task.

        Raises:
            NotFound: no trainer has this name.
            ClientError: 409 without labels, 429 while one runs and none is to wait. One that
                outlived an earlier server is not waited for: two would write the same record and checkpoint.
            Busy: 507 on a full disk.
        """
        if name not in self._folders:
            raise NotFound(f"the trainer must be one of {', '.join(self._folders)}, got {name!r}")
        self._check(name)
        params = {key: value for key, value in params.items() if key != "model"}  # it would take the place of `name`
        with self._lock:
            if self._orphaned():
                raise ClientError(
                    "a training that an earlier run of this server began still runs: wait for its end, or stop it with "
                    "DELETE",
                    429,
                )
            if self._busy() and not enqueue:
                raise ClientError(
                    "a train task is already running: wait for its end, stop it with DELETE, or say enqueue=true", 429
                )
            task: dict[str, Any] = self._run(name, {**params, "run": uuid.uuid4().hex}, enqueue=True)
            if name == MODEL and self._beside and len(self._studies.painted()) >= self._beside:
                beside = {key: params[key] for key in WHERE if key in params}
                self._run(LIST_UNET, {**beside, "run": uuid.uuid4().hex}, enqueue=True)
            return task

    def stop(self) -> dict[str, Any] | None:
        """End the training under way and drop those that wait; what is served stays. None where there is none."""
        with self._lock:
            waiting = [task for task in processes.tasks("train") if task["status"] == "SUBMITTED"]
            executor: Executor | None = processes.background_executors.pop("train", None)
            if executor:
                executor.shutdown(wait=False, cancel_futures=True)
            for task in waiting:
                task["status"] = "STOPPED"
            task = None
            with suppress(psutil.Error):  # whatever ends by itself meanwhile need not be stopped
                task = train.stop()
            left = list(processes.processes("train").values())
            for process in left:  # an error came before it was killed, or it began just now
                process.kill()
            task = task or (snapshot(waiting[-1]) if waiting else {"status": "STOPPED"} if left else None)
            for record in map(read_record, self._folders.values()):
                if record.get("state") == RUNNING and _alive(record.get("pid")):  # it outlived an earlier server
                    task = task or {"status": "STOPPED"}
                    with suppress(psutil.Error):
                        psutil.Process(record["pid"]).kill()
        if task and not task.get("details"):  # 3D Slicer's panel shows the last of them, whatever there is
            task["details"] = ["stopped before the training said anything"]
        for folder in self._folders.values():
            if task and read_record(folder).get("state") == RUNNING:
                update_record(folder, state=STOPPED, reason="stopped; Train goes on after the last whole epoch")
        return task

    def end(self) -> None:
        """End the training under way because this process ends: the next one lets it go on after its last epoch."""
        with self._lock:
            executor: Executor | None = processes.background_executors.pop("train", None)
            if executor:
                executor.shutdown(wait=False, cancel_futures=True)
            for process in list(processes.processes("train").values()):
                with suppress(psutil.Error):
                    for each in (*psutil.Process(process.pid).children(recursive=True), process):
                        each.kill()

    def status(self, name: str = MODEL) -> dict[str, Any]:
        """The newest training of one trainer: state (idle, running, published, candidate, failed, stopped), progress,
        curve, verdict, and how many wait."""
        record = {"state": "idle", **read_record(self._folders[name])}
        tasks = [task for task in processes.tasks("train") if task["request"].get("model", name) == name]
        newest = next((task for task in reversed(tasks) if _began(task)), None)
        spoke = newest is None or _spoke(record, newest)
        now = newest["status"] if newest else ""
        words = _last_words(newest) if newest and now == "ERROR" else ""
        unknown = {"curve": [], "epoch": 0}  # what the record tells of is the training before
        if now == "RUNNING":
            if not spoke or record["state"] != RUNNING:  # its process still starts, or still ends
                record = {**(record if spoke else unknown), "state": RUNNING, "reason": ""}
        elif not spoke and now == "STOPPED":
            record = {**unknown, "state": STOPPED, "reason": "stopped before it began"}
        elif not spoke and now == "ERROR":
            record = {**unknown, "state": FAILED, "reason": SILENT + words}
        elif record["state"] == RUNNING and not _alive(record.get("pid")):
            record |= {"state": FAILED, "reason": self._interrupted(name) + words}
        waiting = sum(task["status"] == "SUBMITTED" for task in tasks)
        return {**record, "queued": waiting, "auto_finetune": self._every}

    def label_saved(self) -> bool:
        """Start a training where enough labels are new since the last one; whether it did."""
        if not self._every:
            return False
        known = read_record(self._folders[MODEL]).get("studies") or {}
        new = [image_id for image_id, checksum in self._studies.painted().items() if known.get(image_id) != checksum]
        if len(new) < self._every or self._busy():
            return False
        return self._try({}, f"no training was started after {len(new)} new labels")

    def resume(self) -> bool:
        """At the server's start: let a training go on that a kill or a power cut ended; whether there was one.

        Nothing keeps the server from starting. The record stays as it is until the new process writes its own, so
        that what cannot go on now (a DICOMweb server is away, the disk is full) goes on at the next start.
        """
        interrupted = {name: read_record(folder) for name, folder in self._folders.items()}
        gone = [
            (name, record.get("params") or {})
            for name, record in interrupted.items()
            if record.get("state") == RUNNING and not _alive(record.get("pid"))
        ]
        for name, _ in gone:
            logger.info("a training of %s was interrupted and goes on", name)
        away = "the interrupted training does not go on"
        return any([self._try(params, away, enqueue=True, name=name) for name, params in gone])

    def _try(self, params: Mapping[str, Any], otherwise: str, **options: Any) -> bool:
        """Start one that nobody waits for the answer of: what keeps it from starting is logged."""
        try:
            self.start(params, **options)
        except Exception as error:
            expected = isinstance(error, (Busy, ClientError, OSError))
            logger.warning("%s: %s", otherwise, error, exc_info=not expected)
            return False
        return True

    def _busy(self) -> bool:
        """A training waits or runs, here or as the orphan of a server that was killed."""
        waits = any(task["status"] in ("SUBMITTED", "RUNNING") for task in processes.tasks("train"))
        return waits or self._orphaned()

    def _orphaned(self) -> bool:
        """The training that runs is none of this server's."""
        own = any(task["status"] == "RUNNING" for task in processes.tasks("train"))
        records = map(read_record, self._folders.values())
        return not own and any(record.get("state") == RUNNING and _alive(record.get("pid")) for record in records)

    def _interrupted(self, name: str) -> str:
        """Why a process ended that could say nothing: a full disk takes no last words."""
        with suppress(OSError):
            if (free := shutil.disk_usage(self._folders[name]).free) < min(self._room, LEAST_ROOM):
                return FULL.format(self._folders[name], free // 2**20)
        return INTERRUPTED

    def _check(self, name: str) -> None:
        if not self._studies.painted():
            raise ClientError("there is no label to learn from yet: save one study first", status=409)
        models = self._folders[name]
        free = shutil.disk_usage(models).free
        if free < self._room:
            raise Busy(
                f"training needs {self._room // 2**20} MB of free disk for its checkpoints, and {models} has "
                f"{free // 2**20} MB: free some",
                507,
                TRY_AGAIN,
            )


def _began(task: Mapping[str, Any]) -> bool:
    """Whether a task of MONAI Label's ever had a process: those that were dropped while they waited had none."""
    return task["status"] == "RUNNING" or "end_ts" in task


def _spoke(record: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Whether the record is of this task, or of one before it; by the clock only where the record is of an older
    release."""
    if record.get("run") and task["request"].get("run"):
        return bool(record["run"] == task["request"]["run"])
    return bool(record.get("started", 0) >= _beginning(task))


def _beginning(task: Mapping[str, Any]) -> float:
    """When the process of a task began, at the earliest, in seconds since the epoch: when it was asked for or, as one
    runs at a time, when the one before it ended. MONAI Label notes whole seconds of local time."""
    everyone = processes.tasks("train")
    times = [task["start_ts"], *(earlier["end_ts"] for earlier in everyone[: everyone.index(task)] if _began(earlier))]
    return max(datetime.strptime(time, "%Y-%m-%d %H:%M:%S").timestamp() for time in times)


def _last_words(task: Mapping[str, Any]) -> str:
    """The last line that the process of a task printed, as a sentence: of a Python that failed, its error."""
    lines = list(task.get("details") or ())
    return f" Its last words: {lines[-1]}" if lines else ""


def _alive(pid: Any) -> bool:
    """Whether a process runs that is a training: numbers of ended processes are given again."""
    try:
        process = psutil.Process(int(pid))
        return process.status() != psutil.STATUS_ZOMBIE and "train" in process.cmdline()
    except (psutil.Error, TypeError, ValueError):
        return False
