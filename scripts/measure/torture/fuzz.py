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

# What starts processes of minutes, or reads another server
LEFT_OUT = r"^/(train|batch|scoring|proxy|model|logs/gpu|oneprompt/(training|versions|specialist|uniseg))"


def torture_by_requests(examples: int, seed: int) -> dict[str, Any]:
    """So many requests of each kind to each route of a server.

    Returns:
        What schemathesis counted, which routes answered with a server error, and files that appeared elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        ids = write_studies(folder / "studies", 2)
        (folder / "outside").mkdir()
        conf = {"weights": str(write_weights(folder / "w.safetensors")), "models": str(folder / "models")}
        with Server(folder / "studies", log=folder / "server.log", conf=conf, start_timeout=900) as server:
            done = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--phases", "fuzzing",
                 "--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", str(seed),
                 "--request-timeout", "60", "--exclude-path-regex", LEFT_OUT, "--no-color",
                 "--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure"],
                cwd=folder, capture_output=True, text=True,
            )  # fmt: skip
            alive = requests.get(f"{server.url}/info/", timeout=60).ok
        strangers = [path.name for path in (folder / "outside").iterdir()]
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    failures = sorted({line for line in lines if re.search(r"^_+ (GET|PUT|POST|DELETE|HEAD|PATCH) ", line)})
    failures += ["the server is gone"] * (not alive) + [f"outside the folder: {name}" for name in strangers]
    if done.returncode not in (0, 1):
        failures.append(f"schemathesis ended with {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}")
    return {"examples": examples, "studies": ids, "failures": failures, "summary": lines[-15:]}
