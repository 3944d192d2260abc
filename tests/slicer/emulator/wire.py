"""HTTP requests as the bytes they are: kept while they pass by, stored in files, sent again, compared."""

from __future__ import annotations

import gzip
import http.client
import io
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

TIMEOUT = 180  # seconds for one answer
_LENGTH = re.compile(rb"(?im)^content-length:\s*(\d+)\r$")
_VOLATILE = re.compile(rb"(?im)^(host|content-length|accept-encoding|user-agent):.*\r\n")
_RANDOM = re.compile(rb"(?<=slicer-)\w{8}(?=/)|[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GZIP = re.compile(rb"\x1f\x8b\x08.*?(?=\r\n--)", re.DOTALL)


def read_message(stream: BinaryIO) -> bytes:
    """The next request of a stream, head and body; nothing at its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    length = _LENGTH.search(head)
    return head + (stream.read(int(length[1])) if length else b"")


def read_recording(path: Path) -> list[bytes]:
    """The requests of a recording, which is nothing but one after the other."""
    stream = io.BytesIO(path.read_bytes())
    return list(iter(lambda: read_message(stream), b""))


def send(request: bytes, port: int) -> http.client.HTTPResponse:
    """Send a request to this machine exactly as it is; the answer is still to be read."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.sendall(request)
    answer = http.client.HTTPResponse(connection, method=request.split(b" ", 1)[0].decode())
    connection.close()  # the answer holds its own handle
    answer.begin()
    return answer


def line(request: bytes) -> str:
    """Method and address, to speak of a request."""
    return request.split(b"\r\n", 1)[0].decode().removesuffix(" HTTP/1.1")


def essence(request: bytes) -> bytes:
    """A request without what differs between runs: the port, random names, and how gzip packed the same bytes."""
    head, _, body = request.partition(b"\r\n\r\n")
    body = _GZIP.sub(lambda found: gzip.decompress(found[0]), body)
    return b"\r\n\r\n".join(_RANDOM.sub(b"RANDOM", part) for part in (_VOLATILE.sub(b"", head + b"\r\n"), body))


class Tap:
    """Passes requests on to a server on this machine and keeps them, from entering the context until leaving it."""

    def __init__(self, port: int) -> None:
        self._requests: list[bytes] = []
        tap = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while request := read_message(self.rfile):  # type: ignore[arg-type]  # a buffered reader
                    tap._requests.append(request)
                    for part in _relayed(send(request, port)):
                        self.wfile.write(part)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Listener(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self) -> list[bytes]:
        """The requests since the last time."""
        taken, self._requests = self._requests, []
        return taken

    def __enter__(self) -> Tap:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _relayed(answer: Any) -> Iterator[bytes]:
    body = answer.read()
    yield f"HTTP/1.1 {answer.status} {answer.reason}\r\n".encode()
    for key, value in answer.getheaders():
        if key.lower() not in ("content-length", "transfer-encoding", "connection"):
            yield f"{key}: {value}\r\n".encode("latin-1")
    yield f"Content-Length: {len(body)}\r\n\r\n".encode() + body
