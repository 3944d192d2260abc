"""Servers as processes of their own, which end with all their children."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

_PATIENCE = 15.0  # seconds that a server has to end in


class Process(Protocol):
    """What is needed of a process that leads a group of its own; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


Launch = Callable[[Sequence[str], Path | None, Path], Process]  # command, working directory, file for what it prints


def launch(command: Sequence[str], cwd: Path | None, log: Path) -> Process:
    """Start a process in a session of its own: a Ctrl-C meant for us must not stop it before we have done with it."""
    with log.open("wb") as target:
        return subprocess.Popen(
            command, cwd=cwd, stdout=target, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )


class ServerProcess(ABC):
    """A server that runs until its context is left."""

    _process: Process | None = None

    @abstractmethod
    def _wait_until_it_answers(self) -> None:
        """Raise where it does not come to answer."""

    def _start(self, command: Sequence[str], cwd: Path | None, log: Path, launch: Launch = launch) -> None:
        """Start it, and wait until it answers."""
        self._process = launch(command, cwd, log)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def kill(self) -> None:
        """Ends the server and all its children as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """Ends the server and all its children: politely, and after 15 seconds without asking."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()
        _signal_group(process, signal.SIGKILL)  # children that outlived it, such as a training process


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all gone already
        os.killpg(process.pid, number)
