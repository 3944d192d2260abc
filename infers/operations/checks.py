"""What `python -m scripts.doctor` looks at around the study list; every finding says what to do about it.

A further check is a function that takes a `Subject` and yields `Finding`s, and a line in `CHECKS`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests

from infers.environment import EnvironmentProblem, check_packages
from infers.errors import dicomweb_problem
from infers.settings import AppConfig
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network

FULL, LITTLE = 64, 1024  # MB of a disk below which nothing can be saved, and a training may not fit
MB = 2**20

Kind = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Subject:
    """What is examined: the study list, the app's folder, and the settings that a server would be started with."""

    studies: str
    app: Path
    config: AppConfig

    @property
    def folder(self) -> Path | None:
        """The study folder; None for a DICOMweb server."""
        return None if self.studies.startswith(("http://", "https://")) else Path(self.studies)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: `problem` where something will not work, `note` where a person should know.
        about: what was looked at.
        text: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    kind: Kind
    about: str
    text: str
    remedy: str = ""


def packages(subject: Subject) -> Iterator[Finding]:
    """The installed packages against those that were tested together."""
    try:
        warnings = check_packages()
    except EnvironmentProblem as problem:
        problems, _, remedy = str(problem).partition("\nInstall the tested ones with:\n")
        yield Finding("problem", "packages", problems, remedy.strip())
        return
    yield from (Finding("note", "packages", warning, "scripts/setup installs the tested set") for warning in warnings)
    if not warnings:
        yield Finding("ok", "packages", "as tested")


def weights(subject: Subject) -> Iterator[Finding]:
    """The weights that would be served."""
    path = subject.config.weights or SHIPPED_WEIGHTS
    try:
        load_network(path)
    except CheckpointError as error:
        yield Finding(
            "problem", "weights", str(error), "leave --conf weights out to serve those that ship with the app"
        )
        return
    yield Finding("ok", "weights", f"{path.name} is whole and fits")


def permissions(subject: Subject) -> Iterator[Finding]:
    """Whether what must be written can be, and how much room is left there."""
    models = subject.config.models or subject.app / "model"
    for about, folder in (
        ("study folder", subject.folder),
        ("models", models),
        ("temporary", Path(tempfile.gettempdir())),
    ):
        if folder is None:
            continue
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding("problem", about, f"{there} cannot be written by this user",
                          f"sudo chown -R $USER '{there}', or start the server as its owner")  # fmt: skip
            continue
        free = shutil.disk_usage(there).free // MB
        kind: Kind = "problem" if free < FULL else "note" if free < LITTLE else "ok"
        remedy = "" if kind == "ok" else "make room: a training needs about 1 GB"
        yield Finding(kind, about, f"{there} can be written, {free} MB free", remedy)


def dicomweb(subject: Subject) -> Iterator[Finding]:
    """The DICOMweb server, asked once."""
    if subject.folder is not None:
        return
    name, word = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{which}", "") for which in ("USERNAME", "PASSWORD"))
    try:
        answer = requests.get(f"{subject.studies.rstrip('/')}/studies", params={"limit": "1"}, timeout=10,
                              auth=(name, word) if name else None, headers={"accept": "application/dicom+json"},
                              allow_redirects=False)  # fmt: skip
        answer.raise_for_status()
        count = len(answer.json()) if answer.content else 0
    except (requests.RequestException, ValueError) as error:
        problem = (
            dicomweb_problem(error) if isinstance(error, requests.RequestException) else f"no DICOM JSON ({error})"
        )
        yield Finding(
            "problem", "DICOMweb", problem, "see that --studies is the DICOMweb root, and the user and password"
        )
        return
    yield Finding("ok" if count else "note", "DICOMweb", "it answers" if count else "it answers, and holds no study")


Check = Callable[[Subject], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (packages, weights, permissions, dicomweb)


def findings_of(check: Check, subject: Subject) -> list[Finding]:
    """What a check found; a check that fails itself is a finding too."""
    findings: list[Finding] = []
    try:
        for finding in check(subject):
            findings.append(finding)
    except Exception as error:  # a doctor that dies of what it examines helps nobody
        problem = f"could not be examined: {type(error).__name__}: {error}"
        findings.append(Finding("problem", check.__name__, problem, "report this with the message"))
    return findings
