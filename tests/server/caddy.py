"""A Caddy of this machine before a server, with the configuration that the documentation gives to users."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "Caddyfile"
PATIENCE = 120  # seconds
# Nothing outside this test's folder is touched, and no port but ours is opened
CONTAINED = "{{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}}\nimport {}\n"


@dataclass
class Proxy:
    """A Caddy that runs.

    Attributes:
        name: the name under which it is opened.
        port: its port on this machine.
        authority: certificate of its own authority.
    """

    name: str
    port: int
    authority: Path

    @property
    def origin(self) -> str:
        """Its address as browsers say it."""
        return f"https://{self.name}:{self.port}"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request to its name, as if a name server knew it; its certificate is verified."""
        with requests.Session() as session:
            session.mount("https://", _Named(self.name))
            session.trust_env = False
            headers = {"Host": f"{self.name}:{self.port}", **options.pop("headers", {})}
            return session.request(method, f"https://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE,
                                   verify=str(self.authority), **options)  # fmt: skip


class _Named(HTTPAdapter):
    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, server_hostname=self._name, assert_hostname=self._name)


@contextmanager
def caddy(folder: Path, server: int, name: str, user: str, password: str) -> Iterator[Proxy]:
    """A Caddy before the server at a port, which asks for a name and a password; also known as `localhost`."""
    hashed = subprocess.run(
        ["caddy", "hash-password", "--plaintext", password], capture_output=True, check=True, text=True
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "Caddyfile").write_text(CONTAINED.format(CONFIGURATION))
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder),
                   "SITE": f"{name}:{port}, localhost:{port}", "SERVER": f"127.0.0.1:{server}", "USER": user,
                   "HASH": hashed.stdout.strip()}  # fmt: skip
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"], cwd=folder,
                                   env=environment, stdout=log, stderr=subprocess.STDOUT)  # fmt: skip
    proxy = Proxy(name, port, folder / "caddy" / "pki" / "authorities" / "local" / "root.crt")
    try:
        _wait(proxy, process, folder / "caddy.log")
        yield proxy
    finally:
        process.terminate()
        process.wait(60)


def _wait(proxy: Proxy, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            proxy.ask("GET", "/auth/")
            return
        except OSError:  # no authority yet, or no listener
            time.sleep(0.1)
    raise RuntimeError(f"Caddy does not run:\n{log.read_text()[-3000:]}")
