import json
import logging
import shutil
from types import SimpleNamespace

from infers.operations.health import FULL, health, writable
from infers.operations.logs import log_request
from infers.operations.metrics import Metrics


def test_a_server_is_ready_while_every_check_says_nothing():
    assert health({"storage": lambda: "", "job": lambda: ""}) == (
        True, {"live": True, "ready": True, "checks": {"storage": "ok", "job": "ok"}},
    )  # fmt: skip


def test_what_is_wrong_or_cannot_be_looked_at_makes_it_unready():
    def dies():
        raise OSError("stale")

    ready, told = health({"storage": dies, "job": lambda: "the background job stopped"})
    assert not ready
    assert told["checks"] == {"storage": "cannot be looked at (OSError)", "job": "the background job stopped"}


def test_a_folder_that_is_gone_or_full_is_told(tmp_path, monkeypatch):
    assert writable(tmp_path) == ""
    assert "not there" in writable(tmp_path / "gone")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=FULL - 1))
    assert "full" in writable(tmp_path)


def test_answers_are_counted_by_route_and_lines_told_when_asked():
    metrics, waiting = Metrics(), [0]
    metrics.gauge("network_waiting", "Requests in line", lambda: waiting[0])
    metrics.answered("GET", "/datastore/image", 200, 0.2)
    metrics.answered("GET", "/datastore/image", 404, 0.1)
    waiting[0] = 3
    text = metrics.text().decode()
    assert 'oneprompt_requests_total{method="GET",route="/datastore/image",status="404"} 1.0' in text
    assert 'oneprompt_request_seconds_count{route="/datastore/image"} 2.0' in text
    assert "oneprompt_network_waiting 3.0" in text
    assert "process_resident_memory_bytes" in text


def test_what_changes_something_or_fails_is_written_down_as_json(caplog):
    caplog.set_level(logging.INFO, "oneprompt.requests")
    log_request("GET", "/info/", 200, 0.1, "a")
    log_request("PUT", "/datastore/label", 200, 0.1, "b")
    log_request("GET", "/datastore/image", 404, 0.1, "c")
    told = [json.loads(record.message) for record in caplog.records]
    assert [line["request"] for line in told] == ["b", "c"]
    assert told[0] == {"request": "b", "method": "PUT", "route": "/datastore/label", "status": 200, "seconds": 0.1}
