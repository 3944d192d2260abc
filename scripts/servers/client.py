"""A real MONAI Label server as a process of its own, and the REST calls that a client makes of it.

with Server(studies, log=Path("server.log")) as server:
    client = Client(server.url)
    client.save_label("study_1", Path("label.nii.gz"), {"liver": 1})
"""

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import requests

from scripts.servers.processes import Launch, ServerProcess, launch

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "oneprompt"


class ServerError(RuntimeError):
    """The server did not start, died, or refused a request; the message has its own words."""


class Server(ServerProcess):
    """`monailabel start_server` on 127.0.0.1, from entering the context until leaving it.

    Args:
        studies: the study folder, which the server writes labels into, or a DICOMweb server's address.
        log: file for what the server prints.
        conf: the app's settings, as `--conf KEY VALUE`.
        cwd: working directory of the process.
        port: 0 takes a free one.
        start_timeout: seconds until /info/ must answer.
        app: the app's folder.
        launch: starts the process.
    """

    def __init__(
        self,
        studies: Path | str,
        *,
        log: Path,
        conf: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        port: int = 0,
        start_timeout: float = 180,
        app: Path = APP,
        launch: Launch = launch,
    ) -> None:
        self._command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
        self._command += ["--studies", str(studies.resolve() if isinstance(studies, Path) else studies)]
        for key, value in (conf or {}).items():
            self._command += ["--conf", key, value]
        self._log, self._cwd, self._port, self._start_timeout = log, cwd, port, start_timeout
        self._launch = launch

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "Server":
        self._port = self._port or _free_port()
        command = [*self._command, "--host", "127.0.0.1", "--port", str(self._port)]
        self._start(command, self._cwd, self._log, self._launch)
        return self

    def check(self) -> None:
        """Raises ServerError with the end of the log if the process is gone."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        raise ServerError(f"the server ended with code {code}. The end of its log:\n{self.log_tail()}")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server printed, indented."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """The server's process id. Raises ServerError where it does not run."""
        if self._process is None:
            raise ServerError("the server does not run")
        return self._process.pid

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + self._start_timeout
        while time.monotonic() < end:
            self.check()
            try:
                if requests.get(f"{self.url}/info/", timeout=10).ok:
                    return
            except requests.RequestException:
                pass  # not listening yet
            time.sleep(0.25)
        raise ServerError(
            f"the server did not answer within {self._start_timeout:g} s. The end of its log:\n{self.log_tail()}"
        )


class Client:
    """The calls that a viewer makes; each raises ServerError with the server's words where it answers with an error."""

    def __init__(self, url: str, timeout: float = 120) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout
        self._session = requests.Session()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def info(self) -> dict[str, Any]:
        """Models, trainers and labels: GET /info/."""
        return self._json("GET", "/info/")

    def image_ids(self) -> list[str]:
        """Every study of the list."""
        return sorted(self._json("GET", "/datastore/", params={"output": "all"})["objects"])

    def add_image(self, path: Path) -> str:
        """Adds an image to the study list; its id is the file's name without the suffix."""
        with path.open("rb") as file:
            return str(self._json("PUT", "/datastore/", files={"file": (path.name, file)})["image"])

    def save_label(self, image_id: str, label: Path, names: Mapping[str, int], tag: str = "") -> dict[str, Any]:
        """Saves a label as a person's; names: structure to value in the file. Without a tag it is final."""
        label_info = [{"name": name, "idx": index} for name, index in names.items()]
        with label.open("rb") as file:
            return self._json(
                "PUT",
                "/datastore/label",
                params={"image": image_id, **({"tag": tag} if tag else {})},
                data={"params": json.dumps({"label_info": label_info})},
                files={"label": (label.name, file)},
            )

    def download_label(self, image_id: str, tag: str, folder: Path) -> Path:
        """The label's file, put in `folder` under the image's id and the extension that the server gives it."""
        answer = self._request("GET", "/datastore/label", params={"label": image_id, "tag": tag})
        served = answer.headers.get("content-disposition", "").partition("filename=")[2].strip('"')
        extension = served.removeprefix(image_id) if served.startswith(f"{image_id}.") else ".nii.gz"
        path = folder / f"{image_id}{extension}"
        path.write_bytes(answer.content)
        return path

    def label_info(self, image_id: str, tag: str) -> dict[str, Any]:
        """What is recorded about a label, such as its provenance."""
        return self._json("GET", "/datastore/label/info", params={"label": image_id, "tag": tag})

    def status(self) -> dict[str, Any]:
        """Templates, the job's progress and each study's state: GET /oneprompt/status."""
        return self._json("GET", "/oneprompt/status", params={"all": True})

    def is_training(self) -> bool:
        """Whether a training process is under way."""
        answer = self._session.get(f"{self._url}/train/?check_if_running=true", timeout=self._timeout)
        return answer.status_code == 200  # 404 means no

    def train(self, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Presses *Train*: POST /oneprompt/training. It waits where one is under way."""
        return self._json("POST", "/oneprompt/training", json=dict(params or {}))

    def training(self) -> dict[str, Any]:
        """How the training is, or how the last one ended: GET /oneprompt/training."""
        return self._json("GET", "/oneprompt/training")

    def start_job(self) -> dict[str, Any]:
        return self._json("POST", "/oneprompt/job")

    def cancel_job(self) -> dict[str, Any]:
        return self._json("DELETE", "/oneprompt/job")

    def upload_model(self, name: str, weights: Path) -> None:
        """Offers other weights of a model from now on: PUT /model/."""
        with weights.open("rb") as file:
            self._request("PUT", f"/model/{name}", files={"file": (weights.name, file)})

    def undo_job(self) -> dict[str, Any]:
        """Takes every automatic mask away that nobody judged: POST /oneprompt/job/undo."""
        return self._json("POST", "/oneprompt/job/undo")

    def infer(self, model: str, image_id: str, params: Mapping[str, Any], label: Path | None = None) -> bytes:
        """The mask file that POST /infer/{model} answers with; `label` is uploaded for the model to go on from."""
        answer = self._request(
            "POST",
            f"/infer/{model}",
            params={"image": image_id, "output": "image"},
            data={"params": json.dumps(dict(params))},
            files={"label": (label.name, label.read_bytes())} if label else None,
        )
        return answer.content

    def next_sample(self, strategy: str) -> str | None:
        """Id of the study that an active learning strategy gives next; None where every study has a label."""
        return self._json("POST", f"/activelearning/{strategy}", json={}).get("id")

    def rows(self) -> list[dict[str, Any]]:
        """Every study as the review board lists it."""
        studies: list[dict[str, Any]] = []
        page = pages = 1
        while page <= pages:
            answer = self._json("GET", "/oneprompt/studies", params={"page": page, "per_page": 200, "sort": "name"})
            studies, pages, page = studies + answer["studies"], answer["pages"], page + 1
        return studies

    def accept_above(self, bound: float) -> list[str]:
        """Accept every automatic mask predicted at `bound` or better; ids of those that were."""
        return list(self._json("POST", "/oneprompt/accept", json={"bound": bound})["done"])

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(method, path, **options).json()
        return answer

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(method, self._url + path, timeout=self._timeout, **options)
        except requests.RequestException as error:
            raise ServerError(f"{method} {path} got no answer: {error}") from error
        if not answer.ok:
            raise ServerError(f"{method} {path} was refused with {answer.status_code}: {_words(answer)}")
        return answer


def _words(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]


@contextmanager
def ended_by_signals(*numbers: int) -> Iterator[None]:
    """SIGTERM, or these signals, unwind like Ctrl-C, so that no server, and no copy of its studies, stays behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers or (signal.SIGTERM,)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
