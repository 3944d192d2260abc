"""Requests that fit the server's own description and requests that do not, by schemathesis: none may break it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests

from scripts.measure.torture.lists import write_studies, write_weights
from scripts.servers.client import Server
from scripts.servers.processes import Launch

# What starts processes of minutes, or reads another server
LEFT_OUT = r"^/(train|batch|scoring|proxy|model|logs/gpu|oneprompt/(training|versions|specialist|uniseg))"
# Names of what is there: made-up ones alone would only be told that nothing has them
SETTINGS = """
[dictionaries]
studies = { values = ["s0", "s1"] }
tags = { values = ["final", "original"] }
models = { values = ["oneprompt", "oneprompt_click", "oneprompt_slice", "oneprompt_scribbles", "oneprompt_submit"] }
strategies = { values = ["first", "oneprompt_first", "oneprompt_next"] }

[parameters]
image = { dictionary = "studies", probability = 0.7 }
label = { dictionary = "studies", probability = 0.7 }
"path.id" = { dictionary = "studies", probability = 0.7 }
tag = { dictionary = "tags", probability = 0.7 }
model = { dictionary = "models", probability = 0.7 }
strategy = { dictionary = "strategies", probability = 0.7 }
"""
ROUTE = re.compile(r"^_+ (GET|PUT|POST|DELETE|HEAD|PATCH) ")


def torture_by_requests(examples: int, seed: int, launch: Launch) -> dict[str, Any]:
    """So many requests of each kind to each route of a server, which `launch` starts.

    Returns:
        What schemathesis counted, which routes answered with a server error or not at all, and whether the server goes
        on; files that appeared outside its folders.
    """
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        write_studies(folder / "studies", 2)
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models"),
                "labels": "organ"}  # fmt: skip
        work = folder / "schemathesis"
        work.mkdir()
        (work / "schemathesis.toml").write_text(SETTINGS)
        before = set(folder.iterdir())
        with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900,
                    launch=launch) as server:  # fmt: skip
            command = [
                *[sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--phases", "fuzzing"],
                *["--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", str(seed)],
                *["--request-timeout", "60", "--exclude-path-regex", LEFT_OUT, "--no-color"],
                *["--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure"],
            ]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True)
            alive = requests.get(f"{server.url}/info/", timeout=60).ok
            health = requests.get(f"{server.url}/oneprompt/health", timeout=60)
        strangers = set(folder.iterdir()) - before - {folder / "server.log", folder / "models"}
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    wrong = sorted({line.strip("_ ") for line in lines if ROUTE.search(line)})
    wrong += ["the server is gone"] * (not alive) + [f"outside the folders: {path.name}" for path in strangers]
    wrong += [] if health.ok else [f"the server is not well: {health.text}"]
    if done.returncode not in (0, 1):
        wrong.append(f"schemathesis ended with {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}")
    return {"examples": examples, "summary": lines[-12:], "wrong": wrong}
