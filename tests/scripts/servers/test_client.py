import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.servers.client import Client, ServerError, ended_by_signals


class Recorder(BaseHTTPRequestHandler):
    """Notes each request and answers what the test put into `answers`: path -> (code, headers, body)."""

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path, _, query = self.path.partition("?")
        self.server.seen.append((self.command, path, query, body))
        code, headers, content = self.server.answers.get(path, (200, {}, b"{}"))
        self.send_response(code)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.seen, server.answers, server.daemon_threads = [], {}, True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server):
    with Client(f"http://127.0.0.1:{server.server_port}/") as client:
        yield client


def test_a_label_is_saved_as_final_with_the_names_of_its_values(client, server, tmp_path):
    (tmp_path / "mask.nii.gz").write_bytes(b"the label")
    client.save_label("study 1", tmp_path / "mask.nii.gz", {"liver": 1, "spleen": 4})
    method, path, query, body = server.seen[0]
    assert (method, path, query) == ("PUT", "/datastore/label", "image=study+1")
    assert b"the label" in body
    assert b'filename="mask.nii.gz"' in body
    assert json.dumps({"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 4}]}).encode() in body


def test_a_downloaded_label_keeps_the_servers_extension_also_where_the_id_has_dots(client, server, tmp_path):
    headers = {"content-disposition": 'attachment; filename="2.25.77.nrrd"'}
    server.answers["/datastore/label"] = (200, headers, b"bytes")
    path = client.download_label("2.25.77", "original", tmp_path)
    assert path == tmp_path / "2.25.77.nrrd"
    assert path.read_bytes() == b"bytes"
    assert server.seen[0][2] == "label=2.25.77&tag=original"


def test_study_ids_come_in_order(client, server):
    server.answers["/datastore/"] = (200, {}, json.dumps({"objects": {"b": {}, "a": {}}}).encode())
    assert client.image_ids() == ["a", "b"]


def test_a_refusal_is_an_error_with_the_servers_words(client, server):
    server.answers["/infer/oneprompt"] = (409, {}, b'{"detail": "save one study first"}')
    with pytest.raises(ServerError, match=r"POST /infer/oneprompt was refused with 409: save one study first"):
        client.infer("oneprompt", "a", {})


def test_an_answer_that_is_no_json_is_quoted(client, server):
    server.answers["/info/"] = (500, {}, b"Internal Server Error")
    with pytest.raises(ServerError, match="500: Internal Server Error"):
        client.info()


def test_a_server_that_is_gone_is_an_error_of_ours():
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError, match=r"GET /info/ got no answer"):
        client.info()


def test_a_request_to_end_unwinds_like_ctrl_c_so_that_servers_are_stopped():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
