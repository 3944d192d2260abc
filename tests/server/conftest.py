"""The real MONAI Label server, in a process of its own, spoken to over HTTP as a client does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.measure.torture.starts import MODULE, Nursery
from scripts.servers.processes import Process

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600  # importing PyTorch, MONAI and MONAI Label on a busy machine
PATIENCE = 600  # far more than any answer takes, for a busy machine


# What follows `monailabel`, the folder to start it in, its log, its environment
Start = Callable[[Sequence[str], Path, Path, Mapping[str, str]], Process]


def start_anew(arguments: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Process:
    """By MONAI Label's own command, as a user does; it imports everything."""
    with log.open("ab") as target:
        return subprocess.Popen(
            ["monailabel", *arguments], cwd=folder, env=environment, stdout=target, stderr=subprocess.STDOUT
        )


class Server:
    """One server process on a free port of this machine."""

    def __init__(
        self,
        studies: Path | str,
        weights: Path,
        folder: Path,
        start: Start = start_anew,
        host: str = "127.0.0.1",
        **conf: str,
    ) -> None:
        self.studies, self.folder, self._start = studies, folder, start
        self.log = folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        conf = {"weights": str(weights), "models": str(folder / "models"), **conf}
        # The app's path is relative to where it is started
        app = os.path.relpath(ROOT / "apps" / "oneprompt", folder)
        self._arguments = [
            *["start_server", "--app", app, "--studies", str(studies)],
            *["--host", host, "--port", str(self.port)],
            *[word for key, value in conf.items() for word in ("--conf", key, value)],
        ]

    def start(self) -> Server:
        """Start it from a folder that is not the repository, and wait until it answers."""
        # As a user's shell would: pytest's own import path must not help the server to find its packages.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "HOME": str(self.folder)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # an activated .venv
        self.process = self._start(self._arguments, self.folder, self.log, environment)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/info/")
                return self
            except requests.ConnectionError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """End it politely."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Any HTTP request."""
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=120, **options)

    def get(self, path: str) -> Any:
        """JSON of a GET that must succeed."""
        answer = self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def infer(
        self, model: str, image: str, params: dict[str, Any], output: str = "image", label: Path | None = None
    ) -> requests.Response:
        """POST /infer as OHIF does: the mask alone is the answer; `label` is uploaded with it as Slicer does."""
        query, data = {"image": image, "output": output}, {"params": json.dumps(params)}
        files = {"label": (label.name, label.read_bytes())} if label else None
        return self.request("POST", f"/infer/{model}", params=query, data=data, files=files)

    def save_label(self, image: str, label: Path, names: list[str], tag: str = "") -> requests.Response:
        """PUT /datastore/label as Slicer does."""
        info = [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]
        with label.open("rb") as file:
            return self.request(
                "PUT",
                "/datastore/label",
                params={"image": image, **({"tag": tag} if tag else {})},
                data={"params": json.dumps({"label_info": info, "client_id": "tests"})},
                files={"label": (label.name, file)},
            )

    def status(self) -> dict[str, Any]:
        """GET /oneprompt/status."""
        return self.get("/oneprompt/status")

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE) -> dict[str, Any]:
        """Ask for the status until the condition holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition(status := self.status()):
                return status
            time.sleep(0.2)
        raise AssertionError(f"waited in vain: {status}\n{self.log.read_text()[-4000:]}")

    def wait_for_masks(self, templates: int) -> dict[str, Any]:
        """Wait until every study is a template or has a mask made with this many templates."""

        def done(status: dict[str, Any]) -> bool:
            others = [study["status"] for study in status["studies"].values() if study["status"] != "template"]
            return len(status["templates"]) == templates and status["job"]["state"] == "done" and set(others) <= {
                "automatic", "failed"
            }  # fmt: skip

        return self.wait_for(done)

    def mask(self, image: str, folder: Path, tag: str = "original") -> Path:
        """Download a stored mask."""
        answer = self.request("GET", "/datastore/label", params={"label": image, "tag": tag})
        assert answer.status_code == 200, answer.text
        path = folder / f"{image}-{tag}.nii.gz"
        path.write_bytes(answer.content)
        return path


@pytest.fixture(scope="module")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, nursery: Nursery
) -> Iterator[Callable[..., Server]]:
    """Starts servers on study folders, `anew` or forked, and ends them after the module's tests."""
    started: list[Server] = []

    def fork(arguments: Sequence[str], *where: Any) -> Process:
        return nursery.launch([sys.executable, "-m", MODULE, *arguments], *where)

    def start(studies: Path | str, anew: bool = False, **conf: str) -> Server:
        server = Server(studies, tiny_weights, tmp_path_factory.mktemp("server"), start_anew if anew else fork, **conf)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()
