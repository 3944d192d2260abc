"""Servers that start within seconds: forked from a process that has imported their libraries already.

A torture starts hundreds of servers, and the imports of PyTorch and MONAI are most of a start. Settings are read, and
the app is loaded, by each server itself.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import psutil

ROOT = Path(__file__).resolve().parents[3]
MODULE = "monailabel.main"
# Of the server's imports those that take long and read no settings
LIBRARIES = (
    "torch", "torchvision", "monai.data", "monai.transforms", "monai.engines", "monai.handlers", "monai.bundle",
    "ignite.engine", "nibabel", "nrrd", "SimpleITK", "itk", "pydicom", "pydicom_seg", "highdicom", "skimage.measure",
    "scipy.ndimage", "PIL.Image", "fastapi", "uvicorn", "dicomweb_client", "pynetdicom", "watchdog.observers",
    "monailabel.interfaces.app",
)  # fmt: skip


class Forked:
    """A process that is no child of this one."""

    def __init__(self, pid: int) -> None:
        self.pid, self._process = pid, psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it runs, else -1: only its parent learns how it ended."""
        return None if self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE else -1

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        try:
            self._process.wait(timeout)
        except psutil.TimeoutExpired:
            raise subprocess.TimeoutExpired([MODULE], timeout or 0) from None
        return -1


class Nursery:
    """The process that servers are forked from, from entering the context until leaving it."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def launch(
        self, command: Sequence[str], cwd: Path | None, log: Path, environment: Mapping[str, str] | None = None
    ) -> Forked:
        """Fork a server; `command` is `PYTHON -m monailabel.main ...` and is not executed anew.

        Args:
            environment: the server's; None for what this process had when the context was entered.
        """
        if list(command[1:3]) != ["-m", MODULE]:
            raise ValueError(f"only {MODULE} is forked here, got {command[:3]}")
        assert self._process.stdin
        order: dict[str, Any] = {"arguments": list(command[3:]), "cwd": str(cwd or Path.cwd()), "log": str(log)}
        if environment is not None:
            order["environment"] = dict(environment)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the process that servers are forked from ended with {self._process.wait()}")
        return line


def main() -> None:
    """Import the libraries, then fork a server for each order."""
    answers = os.fdopen(os.dup(1), "w")  # what libraries print while they are imported is no answer
    os.dup2(2, 1)
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    print("ready", file=answers, flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            _become_server(**order)
        print(pid, file=answers, flush=True)


def _become_server(arguments: list[str], cwd: str, log: str, environment: Mapping[str, str] | None = None) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    target, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(old, new)
    os.chdir(cwd)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    sys.argv = [MODULE, *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
