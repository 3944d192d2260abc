"""Trainings as the server sees them: start, queue, stop, go on after a kill, and start by themselves after N labels.

The training itself is MONAI Label's subprocess (`trainers/oneprompt.py`), one at a time. What it says about itself is
in `training.json` (`lib/training_record.py`); whether it still lives, only the processes know.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from monailabel.endpoints import train
from monailabel.utils.async_tasks import utils as processes

from infers.errors import ClientError
from infers.studies import MODEL, Studies
from lib.training_record import FAILED, RUNNING, STOPPED, read_record, update_record

logger = logging.getLogger(__name__)

LEAST_ROOM = 200 * 2**20  # bytes: checkpoints, statistics and a version of the shipped weights
INTERRUPTED = (
    "the training process ended without a word: it was killed, or the machine went down. What is served did not "
    "change; Train goes on after the last whole epoch"
)


class Trainings:
    """Trainings on one study list.

    Args:
        models: folder of runs and records.
        studies: the study list.
        every: start one after so many new final labels; 0 never.
        room: bytes that must be free on the disk before one starts.
    """

    def __init__(
        self,
        models: Path,
        studies: Studies,
        every: int = 0,
        room: int = LEAST_ROOM,
        run: Callable[..., Any] = train.run_model,
    ) -> None:
        self._models, self._studies, self._every, self._room, self._run = models, studies, every, room, run
        self._lock = threading.Lock()

    def start(self, params: Mapping[str, Any], enqueue: bool = False) -> dict[str, Any]:
        """Start a training, or let it wait for the one under way; MONAI Label's task.

        Raises:
            ClientError: 409 without a template, 429 while one runs and none is to wait, 409 on a full disk. One that
                outlived an earlier server is not waited for: two would write the same record and checkpoint.
        """
        self._check()
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
            return dict(self._run(MODEL, dict(params), enqueue=True))

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
            task = task or (waiting[-1] if waiting else None)
            record = read_record(self._models)
            if record.get("state") == RUNNING and _alive(record.get("pid")):  # it outlived an earlier server
                task = task or {"status": "STOPPED"}
                with suppress(psutil.Error):
                    psutil.Process(record["pid"]).kill()
        if task and not task.get("details"):  # 3D Slicer's panel shows the last of them, whatever there is
            task["details"] = ["stopped before the training said anything"]
        if task and read_record(self._models).get("state") == RUNNING:
            update_record(self._models, state=STOPPED, reason="stopped; Train goes on after the last whole epoch")
        return task

    def status(self) -> dict[str, Any]:
        """The newest training: state (idle, running, published, candidate, failed, stopped), progress, curve, verdict,
        and how many wait."""
        record = {"state": "idle", **read_record(self._models)}
        tasks = processes.tasks("train")
        if record["state"] == RUNNING and not _alive(record.get("pid")):
            record |= {"state": FAILED, "reason": INTERRUPTED}
        if any(task["status"] == "RUNNING" for task in tasks) and record["state"] != RUNNING:
            record = {"state": RUNNING, "reason": "", "curve": [], "epoch": 0}  # its process is still starting
        waiting = sum(task["status"] == "SUBMITTED" for task in tasks)
        return {**record, "queued": waiting, "auto_finetune": self._every}

    def label_saved(self) -> bool:
        """Start a training where enough labels are new since the last one; whether it did."""
        if not self._every:
            return False
        known = read_record(self._models).get("studies") or {}
        new = [image_id for image_id, checksum in self._studies.templates().items() if known.get(image_id) != checksum]
        if len(new) < self._every or self._busy():
            return False
        try:
            self.start({})
        except ClientError as error:
            logger.warning("no training was started after %d new labels: %s", len(new), error)
            return False
        return True

    def resume(self) -> bool:
        """At the server's start: let a training go on that a kill or a power cut ended; whether there was one.

        Nothing keeps the server from starting. The record stays as it is until the new process writes its own, so
        that what cannot go on now (a DICOMweb server is away, the disk is full) goes on at the next start.
        """
        record = read_record(self._models)
        if record.get("state") != RUNNING or _alive(record.get("pid")):
            return False
        logger.info("a training was interrupted and goes on")
        try:
            self.start({key: value for key, value in (record.get("params") or {}).items() if key != "model"})
        except Exception as error:
            expected = isinstance(error, (ClientError, OSError))
            logger.warning("the interrupted training does not go on: %s", error, exc_info=not expected)
            return False
        return True

    def _busy(self) -> bool:
        """A training waits or runs, here or as the orphan of a server that was killed."""
        waits = any(task["status"] in ("SUBMITTED", "RUNNING") for task in processes.tasks("train"))
        return waits or self._orphaned()

    def _orphaned(self) -> bool:
        """The training that runs is none of this server's."""
        record = read_record(self._models)
        own = any(task["status"] == "RUNNING" for task in processes.tasks("train"))
        return not own and record.get("state") == RUNNING and _alive(record.get("pid"))

    def _check(self) -> None:
        if not self._studies.templates():
            raise ClientError("there is no template yet: save one study first", status=409)
        free = shutil.disk_usage(self._models).free
        if free < self._room:
            raise ClientError(
                f"training needs {self._room // 2**20} MB of free disk for its checkpoints, and {self._models} has "
                f"{free // 2**20} MB: free some",
                409,
            )


def _alive(pid: Any) -> bool:
    """Whether a process runs that is a training: numbers of ended processes are given again."""
    try:
        process = psutil.Process(int(pid))
        return process.status() != psutil.STATUS_ZOMBIE and "train" in process.cmdline()
    except (psutil.Error, TypeError, ValueError):
        return False
