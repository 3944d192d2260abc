"""Proxies on this machine before a server, with the configurations that the documentation gives to users."""

from __future__ import annotations

import getpass
import os
import shutil
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

DOCS = Path(__file__).resolve().parents[2] / "docs"
PATIENCE = 120  # seconds
# Nothing outside this test's folder is touched, and no port but ours is opened
CONTAINED = "{{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}}\nimport {}\n"
INCLUDED = """daemon off;
user {user};
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@dataclass
class Proxy:
    """A proxy that runs.

    Attributes:
        name: the name under which it is opened.
        port: its port on this machine.
        authority: certificate of the authority that signed its own.
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
    hashed = _told(["caddy", "hash-password", "--plaintext", password])
    port = _free_port()
    (folder / "Caddyfile").write_text(CONTAINED.format(DOCS / "Caddyfile"))
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder),
                   "SITE": f"{name}:{port}, localhost:{port}", "SERVER": f"127.0.0.1:{server}", "USER": user,
                   "HASH": hashed}  # fmt: skip
    proxy = Proxy(name, port, folder / "caddy" / "pki" / "authorities" / "local" / "root.crt")
    with _runs(["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"], folder, environment, proxy):
        yield proxy


@contextmanager
def nginx(folder: Path, server: int, name: str, user: str, password: str) -> Iterator[Proxy]:
    """The same with nginx, whose certificate has signed itself."""
    port, own = _free_port(), folder / "oneprompt"
    proxy = Proxy(name, port, own.with_suffix(".pem"))
    _told(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
           "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},DNS:localhost",
           "-keyout", str(own.with_suffix(".key")), "-out", str(proxy.authority)])  # fmt: skip
    own.with_suffix(".htpasswd").write_text(f"{user}:{_told(['openssl', 'passwd', '-6', password])}\n")
    text = (DOCS / "nginx.conf").read_text()
    for documented, ours in {"listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "/etc/nginx/oneprompt": str(own),
                             "ward.example": name, "127.0.0.1:8000": f"127.0.0.1:{server}"}.items():  # fmt: skip
        assert documented in text, documented
        text = text.replace(documented, ours)
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(INCLUDED.format(user=getpass.getuser(), folder=folder))
    with _runs(["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "proxy.log"], folder, None, proxy):
        yield proxy


@contextmanager
def _runs(command: list[str], folder: Path, environment: dict[str, str] | None, proxy: Proxy) -> Iterator[None]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    environment = {**(environment or os.environ), "PATH": path}
    program = shutil.which(command[0], path=path) or command[0]
    log = folder / "proxy.log"
    with log.open("ab") as told:
        process = subprocess.Popen([program, *command[1:]], cwd=folder, env=environment, stdout=told, stderr=told)
    try:
        _wait(proxy, process, log)
        yield
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
    raise RuntimeError(f"the proxy does not run:\n{log.read_text()[-3000:]}")


def _told(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
