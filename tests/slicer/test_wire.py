import gzip
import http.server
import threading

import pytest

from tests.slicer.emulator.wire import Tap, essence, line, read_recording, send

GET = b"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
PUT = b"PUT /label?image=a HTTP/1.1\r\nHost: 127.0.0.1:1\r\ncontent-length: 5\r\n\r\nab\r\nc"


def test_a_recording_is_one_request_after_the_other(tmp_path):
    (tmp_path / "step.http").write_bytes(GET + PUT + GET)
    assert read_recording(tmp_path / "step.http") == [GET, PUT, GET]
    assert line(PUT) == "PUT /label?image=a"


def upload(port, folder, content, level=6):
    packed = gzip.compress(content, level)
    body = f'filename="/tmp/slicer-{folder}/tmp1.nii.gz"\r\n\r\n'.encode() + packed + b"\r\n--limit--\r\n"
    return f"PUT /x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def test_requests_are_the_same_whatever_the_port_the_folder_and_the_packing():
    content = bytes(range(200)) * 20
    assert upload(1, "abcdefgh", content, 9) != upload(2, "12345678", content, 1)
    assert essence(upload(1, "abcdefgh", content, 9)) == essence(upload(2, "12345678", content, 1))


def test_requests_with_other_voxels_or_another_address_are_not_the_same():
    assert essence(upload(1, "abcdefgh", b"voxels" * 50)) != essence(upload(1, "abcdefgh", b"Voxels" * 50))
    assert essence(PUT) != essence(PUT.replace(b"image=a", b"image=b"))


@pytest.fixture
def echo():
    """A server that answers what it was sent."""

    class Echo(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_tap_keeps_every_byte_and_passes_the_answer_on(echo):
    with Tap(echo) as tap:
        answer = send(PUT, int(tap.url.rpartition(":")[2]))
        assert (answer.status, answer.read()) == (201, b"ab\r\nc")
        assert tap.take() == [PUT]
        assert tap.take() == []
