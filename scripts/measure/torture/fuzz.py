"""Requests that fit the server's own description and requests that do not, by schemathesis: none may break it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from scripts.measure.torture.lists import label_file, write_studies, write_weights
from scripts.measure.torture.odd_archive import odd_archive
from scripts.servers.client import Server
from scripts.servers.processes import Launch

LOOK = 0.5  # seconds between looks whether a request started a process, which is stopped
PATIENCE = 60.0  # seconds
STARTED = ("/train/", "/batch/infer", "/scoring/")  # where processes are asked for, and stopped
DOCUMENTED = (502, 503, 507)  # server errors with words: a DICOMweb server, a folder or a disk
# Names of what is there: made-up ones alone would only be told that nothing has them
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = {statuses}

[dictionaries]
studies = {{ values = ["s0", "s1"] }}
tags = {{ values = ["final", "original"] }}
models = {{ values = {models} }}
strategies = {{ values = ["first", "oneprompt_first", "oneprompt_next"] }}
methods = {{ values = ["dice"] }}
versions = {{ values = {versions} }}

[parameters]
image = {{ dictionary = "studies", probability = 0.7 }}
label = {{ dictionary = "studies", probability = 0.7 }}
"path.id" = {{ dictionary = "studies", probability = 0.7 }}
tag = {{ dictionary = "tags", probability = 0.7 }}
model = {{ dictionary = "models", probability = 0.7 }}
strategy = {{ dictionary = "strategies", probability = 0.7 }}
method = {{ dictionary = "methods", probability = 0.7 }}
version = {{ dictionary = "versions", probability = 0.7 }}
"""
ROUTE = re.compile(r"^_+ (GET|PUT|POST|DELETE|HEAD|PATCH) ")
REQUEST = re.compile(r"^curl ")
ENDED = re.compile(r"^[a-zA-Z_.]+(Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)  # the last line of a traceback
COUNTED = re.compile(r"(\d+) generated")


def torture_by_requests(examples: int, seed: int, launch: Launch) -> dict[str, Any]:
    """So many requests of each kind to each route of a server, which `launch` starts; and to the proxy of another one
    whose DICOMweb server answers oddly. What requests start, trainings and batches, is stopped again.

    Returns:
        What schemathesis counted, which routes answered with a server error or not at all, whether the servers go on
        and serve the weights that they served, and files or processes that were left.
    """
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", 2)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "labels": "organ"}
        fuzz = _Fuzz(examples, seed, folder / "schemathesis")
        before = {*folder.iterdir(), *(folder / name for name in ("models", "server.log", "proxy.log", "state"))}
        with Server(folder / "studies", log=folder / "server.log", start_timeout=900, launch=launch,
                    conf={**conf, "models": str(folder / "models")}) as server:  # fmt: skip
            wrong = _fuzzed(server, folder / "server.log", fuzz)
        with odd_archive() as archive, Server(archive, log=folder / "proxy.log", start_timeout=900, launch=launch,
                                              conf={**conf, "models": str(folder / "models"),
                                                    "state": str(folder / "state")}) as server:  # fmt: skip
            wrong += fuzz.run(server.url, PROXY) + _of(server)
        wrong += [f"outside the folders: {path.name}" for path in set(folder.iterdir()) - before]
    return {"examples": examples, "requests": fuzz.requests, "summary": fuzz.summary, "wrong": wrong}


def _fuzzed(server: Server, log: Path, fuzz: _Fuzz) -> list[str]:
    """What is wrong after requests to every route of a server with a template, and what its log says was raised."""
    params = json.dumps({"label_info": [{"name": "organ", "idx": 1}]})
    requests.put(f"{server.url}/datastore/label", params={"image": "s0"}, data={"params": params}, timeout=PATIENCE,
                 files={"label": ("s0.nii.gz", label_file(0, 7)[0])}).raise_for_status()  # fmt: skip
    described = requests.get(f"{server.url}/openapi.json", timeout=PATIENCE).json()
    described["paths"] |= UNDESCRIBED
    served = _status(server)["weights"]
    with _nothing_runs_long(server.url):
        wrong = fuzz.run(server.url, described)
    wrong += _of(server)
    if _status(server)["weights"] != served:
        wrong.append("other weights are served")
    raised = sorted({match[0] for match in ENDED.finditer(log.read_text(errors="replace"))})
    return [*wrong, *raised] if wrong else []


class _Fuzz:
    """Runs of schemathesis; all of them together sent `requests`."""

    def __init__(self, examples: int, seed: int, work: Path) -> None:
        self._examples, self._seed, self._work = examples, seed, work
        self.requests = 0
        self.summary: list[str] = []
        work.mkdir()

    def run(self, url: str, description: dict[str, Any]) -> list[str]:
        """Send them; what is wrong with the answers."""
        info = requests.get(f"{url}/info/", timeout=PATIENCE).json()
        training = requests.get(f"{url}/oneprompt/training", timeout=PATIENCE).json()
        versions = [version["weights"] for version in training["versions"]] or ["none"]
        models = json.dumps([*info["models"], *info["trainers"]])
        settings = SETTINGS.format(models=models, versions=json.dumps(versions), statuses=_statuses())
        (self._work / "schemathesis.toml").write_text(settings)
        (self._work / "openapi.json").write_text(json.dumps(description))
        command = [
            *[sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--phases", "fuzzing"],
            *["--checks", "not_a_server_error", "--max-examples", str(self._examples), "--seed", str(self._seed)],
            *["--request-timeout", f"{PATIENCE:g}", "--no-color"],
            *["--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure"],
        ]
        done = subprocess.run(command, cwd=self._work, capture_output=True, text=True)
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        self.requests += sum(int(count) for line in lines for count in COUNTED.findall(line))
        self.summary += lines[-12:]
        wrong = [line.strip("_ ")[:2000] for line in lines if ROUTE.search(line) or REQUEST.search(line)]
        if done.returncode not in (0, 1):
            wrong.append(f"schemathesis ended with {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}")
        return wrong


def _statuses() -> list[int | str]:
    return ["2xx", "3xx", "4xx", *DOCUMENTED]


def _of(server: Server) -> list[str]:
    """What is wrong with a server after it all."""
    wrong = [] if requests.get(f"{server.url}/info/", timeout=PATIENCE).ok else ["the server is gone"]
    health = requests.get(f"{server.url}/oneprompt/health", timeout=PATIENCE)
    wrong += [] if health.ok else [f"the server is not well: {health.text}"]
    _, alive = psutil.wait_procs(psutil.Process(server.pid).children(recursive=True), PATIENCE)
    return wrong + [f"a process goes on: {' '.join(process.cmdline())[-200:]}" for process in alive]


def _status(server: Server) -> dict[str, Any]:
    status: dict[str, Any] = requests.get(f"{server.url}/oneprompt/status", timeout=PATIENCE).json()
    return status


@contextmanager
def _nothing_runs_long(url: str) -> Iterator[None]:
    """Meanwhile, and at the end, stop what requests start."""
    over = threading.Event()

    def stop(paths: Sequence[str] = STARTED) -> None:
        for path in paths:
            if requests.get(f"{url}{path}", params={"check_if_running": True}, timeout=PATIENCE).ok:
                requests.delete(f"{url}{path}", timeout=PATIENCE)

    def watch() -> None:
        while not over.wait(LOOK):
            stop()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and requests.get(f"{url}/train/", {"check_if_running": True}, timeout=PATIENCE).ok:
            stop()


def _asks(parameters: Mapping[str, str] = {}, body: bool = False) -> dict[str, Any]:
    """An operation with text parameters, by where they are said, and a body of JSON or of any bytes."""
    operation: dict[str, Any] = {"responses": {}, "parameters": [
        {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
        for name, where in parameters.items()
    ]}  # fmt: skip
    if body:
        operation["requestBody"] = {"content": {
            "application/json": {"schema": {}},
            "multipart/related": {"schema": {"type": "string", "format": "binary"}},
        }}  # fmt: skip
    return operation


_LOOKED_AT = {"all": "query", "check_if_running": "query"}
# What the server answers and does not describe, for old clients and for OHIF
UNDESCRIBED = {
    "/train/": {"get": _asks(_LOOKED_AT), "post": _asks(body=True), "delete": _asks()},
    "/scoring/": {"get": _asks(_LOOKED_AT), "post": _asks(body=True), "delete": _asks()},
    "/reload": {"post": _asks()},
    "/infer/wsi/{model}": {"post": _asks({"model": "path"}, body=True)},
}
_SEARCH = {"path": "path", "limit": "query", "includefield": "query", "PatientID": "query"}
PROXY = {"openapi": "3.1.0", "info": {"title": "proxy", "version": "1"}, "paths": {
    f"/proxy/dicom/{service}{{path}}": {"get": _asks(_SEARCH), "post": _asks({"path": "path"}, body=True)}
    for service in ("", "qido/", "wado/", "wado/studies/", "stow/")
}}  # fmt: skip
