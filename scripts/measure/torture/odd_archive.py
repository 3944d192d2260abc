"""A DICOMweb server that answers searches with nothing and everything else oddly, for whoever stands before it.

An answer that breaks off after its headers is not among them: all that a proxy can do is to break off too.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SEARCHES = ("/studies", "/series", "/instances")


class _Odd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.command == "GET" and path.endswith(SEARCHES):
            _nothing(self)
        else:
            ODDITIES[zlib.crc32(path.encode() + body) % len(ODDITIES)](self)

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def cut(self, content: bytes) -> None:
        """Send bytes as they are and hang up."""
        self.wfile.write(content)
        self.close_connection = True


def _nothing(odd: _Odd) -> None:
    odd.answer(200, b"[]", content_type="application/dicom+json")


def _no_content(odd: _Odd) -> None:
    odd.send_response(204)
    odd.end_headers()


ODDITIES: Sequence[Callable[[_Odd], None]] = (
    _nothing, _no_content,
    lambda odd: odd.answer(200, b"<html>", content_type="application/dicom+json"),
    lambda odd: odd.answer(404, b"no"), lambda odd: odd.answer(409, b"{}", content_type="application/json"),
    lambda odd: odd.answer(302, b"", location="http://evil.example/"),
    lambda odd: odd.answer(302, b"", location=""), lambda odd: odd.answer(304, b"", content_length="0"),
    lambda odd: odd.answer(206, b"x" * 10, content_range="bytes 5-900/3"),
    lambda odd: odd.answer(200, b"", content_type="text/\xff\x80", x_odd="a\tb"),
    lambda odd: odd.answer(999, b"no"),
    lambda odd: odd.cut(b""), lambda odd: odd.cut(b"no HTTP at all\r\n\r\n"),
    lambda odd: odd.cut(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
    lambda odd: odd.cut(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    lambda odd: odd.cut(b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nxxx"),
)  # fmt: skip


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Who hangs up is nobody's error here."""


@contextmanager
def odd_archive() -> Iterator[str]:
    """Its address while it runs."""
    with _Server(("127.0.0.1", 0), _Odd) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        finally:
            server.shutdown()
            thread.join()
