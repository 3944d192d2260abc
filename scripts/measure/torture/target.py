"""What an attack is aimed at: a server of this machine with a study folder, and files beside it that are nobody's."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from scripts.measure.torture.lists import label_file, shape_of
from scripts.servers.client import Server

PATIENCE = 60.0  # seconds that an answer may take
SECRET = bytes(range(64, 128))  # content of a file outside the study folder


@dataclass
class Target:
    """A server under attack.

    Attributes:
        server: it.
        folder: where its study folder `studies`, its `models` and the file `secret.bin` lie.
        clicks: how many clicks an attack by many clicks sends.
    """

    server: Server
    folder: Path
    clicks: int

    @property
    def url(self) -> str:
        """The server's address."""
        return self.server.url

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.url.rpartition(":")[2])

    @property
    def studies(self) -> Path:
        """The study folder."""
        return self.folder / "studies"

    @property
    def secret(self) -> Path:
        """A file that no request may read or change."""
        return self.folder / "secret.bin"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Any request; where no answer comes that is an answer with the status 599."""
        try:
            return requests.request(method, f"{self.url}{path}", **{"timeout": PATIENCE, **options})
        except requests.RequestException as error:
            answer = requests.Response()
            answer.status_code, answer.reason, answer._content = 599, type(error).__name__, b""
            return answer

    def raw(self, request: bytes) -> int:
        """The status that bytes on a connection are answered with; 0 where it is closed without an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(request)
            try:
                line = connection.makefile("rb").readline().split()
            except OSError:
                return 0
        return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0

    def save(self, study: str = "s0", **query: str) -> requests.Response:
        """Save a sound label, as a person does who knows nothing of the attack."""
        content, _ = label_file(int(study[1:]), 7)
        params = json.dumps({"label_info": [{"name": "organ", "idx": 1}]})
        return self.ask("PUT", "/datastore/label", params={"image": study, **query}, data={"params": params},
                        files={"label": (f"{study}.nii.gz", content)})  # fmt: skip

    def click(self, study: str = "s0", params: dict[str, Any] | None = None, **options: Any) -> requests.Response:
        """A click into the middle of a study, or with other parameters."""
        middle = [side // 2 for side in shape_of(int(study[1:]))]
        data = {"params": json.dumps(params or {"foreground": [middle], "label": "organ"})}
        query = {"image": study, "output": "json", **options.pop("query", {})}
        return self.ask("POST", "/infer/oneprompt_click", params=query, data=data, **options)

    def files(self) -> set[Path]:
        """All files but the server's own state, its models and its log."""
        own = {".oneprompt", "models", "logs"}
        return {path for path in self.folder.rglob("*") if path.is_file() and not own & set(path.parts)}

    @contextmanager
    def memory(self) -> Iterator[Callable[[], int]]:
        """Gives how many megabytes the server took at most more than at the beginning, looked at all the time."""
        process = psutil.Process(self.server.pid)
        before = most = process.memory_info().rss
        stop = threading.Event()

        def look() -> None:
            nonlocal most
            while not stop.wait(0.01):
                most = max(most, process.memory_info().rss)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield lambda: (most - before) // 2**20
        finally:
            stop.set()
            thread.join()

    def wait(self, condition: Callable[[], bool], seconds: float = 4 * PATIENCE) -> bool:
        """Whether something comes true within so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True


def served(answer: requests.Response) -> bool:
    """Whether a request was obeyed."""
    return answer.ok


def broke(answer: requests.Response) -> bool:
    """Whether a request broke something: a server error without words, or no answer."""
    return answer.status_code in (500, 599)
