"""Fine-tuning through the real server: train, publish, refuse, roll back, queue, stop, and go on after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.networks import OnePrompt
from lib.networks.checkpoints import load_network, save_network, weights_hash
from tests.samples import TINY, organ_volume, write_nifti
from tests.server.conftest import Server

SHAPE = (32, 32, 8)
LONG = {"max_epochs": 40, "steps_per_epoch": 4}  # so that there is time to interrupt it
SECONDS = 900  # far more than it takes: processes start slowly on a busy machine


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of labels beside a study list of four volumes."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "studies").mkdir()
    for number in range(4):
        image, mask = organ_volume(number, SHAPE)
        write_nifti(folder / "studies" / f"s{number}.nii.gz", image)
        write_nifti(folder / f"label{number}.nii.gz", mask)
    return folder


@pytest.fixture(scope="module")
def server(labels: Path, start_server: Callable[..., Server]) -> Server:
    """A server whose trainings are short."""
    return start_server(
        labels / "studies", finetuning="epochs=1,steps=8,batch=2,rate=0.03", versions="5", specialist="0"
    )


def wait(server: Server, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the training until `done`."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if done(told := server.get("/oneprompt/training")):
            return told
        time.sleep(0.3)
    raise AssertionError(f"waited in vain: {told}\n{server.log.read_text()[-4000:]}")


def ended(told: dict[str, Any]) -> bool:
    return told["state"] not in ("idle", "running") and not told["queued"]


def train(server: Server, **params: Any) -> None:
    """The client's button."""
    answer = server.request("POST", "/train/oneprompt", json=params)
    assert answer.status_code == 200, answer.text


class Load:
    """Requests one after another until it is left, and the status of each answer."""

    def __init__(self, server: Server) -> None:
        self.server, self.statuses = server, []
        self._answered = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, count: int) -> None:
        """Wait for so many further answers."""
        with self._answered:
            enough = len(self.statuses) + count
            assert self._answered.wait_for(lambda: len(self.statuses) >= enough, SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            for model, params in (
                ("oneprompt", {}),
                ("oneprompt_slice", {"foreground": [[16, 16, 4]], "label": "organ", "slice": 4}),
            ):
                status = self.server.infer(model, "s3", params).status_code
                with self._answered:
                    self.statuses.append(status)
                    self._answered.notify_all()


def test_without_a_label_training_is_refused(server: Server) -> None:
    answer = server.request("POST", "/train/oneprompt", json={})
    assert answer.status_code == 409
    assert "save one study first" in answer.json()["detail"]
    assert server.get("/oneprompt/training")["state"] == "idle"


def test_a_training_that_cannot_even_begin_says_why(server: Server, labels: Path, tiny_weights: Path) -> None:
    assert server.save_label("s0", labels / "label0.nii.gz", ["organ"]).status_code == 200
    away = tiny_weights.with_suffix(".away")
    tiny_weights.rename(away)
    try:
        train(server)
        told = wait(server, ended)
    finally:
        away.rename(tiny_weights)
    assert told["state"] == "failed"
    assert "ended before it began" in told["reason"]


def test_better_weights_are_published_served_and_used_again_on_the_list(server: Server, labels: Path) -> None:
    for number in (0, 1):
        assert server.save_label(f"s{number}", labels / f"label{number}.nii.gz", ["organ"]).status_code == 200
    small, _ = organ_volume(2, (8, 8, 8))
    write_nifti(labels / "studies" / "labels" / "final" / "s2.nii.gz", (small > 3).astype("uint8"))  # of another shape
    server.wait_for(lambda status: status["studies"]["s2"]["status"] == "failed", SECONDS)
    server.wait_for(lambda status: status["studies"]["s3"]["status"] == "automatic", SECONDS)
    train(server)
    told = wait(server, ended)
    assert told["state"] == "published", told
    assert set(told["studies"]) == {"s0", "s1"}
    assert told["after"]["dice"] > told["before"]["dice"]
    assert [version["hash"] for version in told["versions"]] == [told["version"]] == [told["served"]]
    stats = server.get("/info/")["train_stats"]["oneprompt"]  # as both clients read it
    assert stats["epoch"] == stats["total_epochs"] == 3
    assert stats["total_time"]
    assert stats["best_metric"] > 0
    server.wait_for(
        lambda status: server.get("/datastore/label/info?label=s3&tag=original")["params"]["weights"] == told["served"]
    )


def test_a_candidate_that_is_not_better_is_kept_and_not_served(server: Server) -> None:
    served = server.status()["weights"]
    train(server, learning_rate=0.0)
    told = wait(server, ended)
    assert told["state"] == "candidate"
    assert "not better" in told["reason"]
    assert server.status()["weights"] == served == told["served"]


def test_one_goes_back_to_any_version(server: Server) -> None:
    told = server.get("/oneprompt/training")
    served, base = told["served"], told["base"]["hash"]
    answer = server.request("POST", "/oneprompt/versions/base")
    assert answer.json() == {"weights": base}
    assert server.status()["weights"] == base
    assert server.request("POST", f"/oneprompt/versions/{served}").status_code == 200
    assert server.status()["weights"] == served
    for wrong in ("000000000000", "nonsense"):
        answer = server.request("POST", f"/oneprompt/versions/{wrong}")
        assert answer.status_code == 404
        assert served in answer.json()["detail"]
    elsewhere = server.request("POST", "/oneprompt/versions/base", headers={"Origin": "https://example.org"})
    assert elsewhere.status_code == 403
    assert server.status()["weights"] == served


def test_requests_go_on_and_none_fails_while_weights_are_swapped(server: Server) -> None:
    told = server.get("/oneprompt/training")
    with Load(server) as load:
        load.wait(2)
        for name in ("base", told["served"]) * 2:
            assert server.request("POST", f"/oneprompt/versions/{name}").status_code == 200
            load.wait(2)
    assert set(load.statuses) == {200}
    assert server.status()["weights"] == told["served"]


def test_weights_of_another_configuration_are_refused(server: Server, tmp_path: Path) -> None:
    served = server.status()["weights"]
    other = dataclasses.replace(TINY, name="other", prompt_channels=8)
    save_network(tmp_path / "other.safetensors", OnePrompt(other), {})
    with (tmp_path / "other.safetensors").open("rb") as file:
        answer = server.request("PUT", "/model/oneprompt", files={"file": file})
    assert answer.status_code == 400
    assert "'other'" in answer.json()["detail"]
    assert server.status()["weights"] == served


def made_by(server: Server, image: str) -> Any:
    """The specialist that made a study's mask, if one did."""
    return server.get(f"/datastore/label/info?label={image}&tag=original")["params"].get("specialist")


def test_a_specialist_that_wins_is_a_further_model_and_makes_the_masks_until_it_is_withdrawn(server: Server) -> None:
    assert "oneprompt_specialist" not in server.get("/info/")["models"]
    assert server.infer("oneprompt_specialist", "s3", {}).status_code == 409
    answer = server.request("POST", "/oneprompt/specialist", json={"use": True})
    assert answer.status_code == 404
    served = server.status()["weights"]
    server.request("POST", "/oneprompt/versions/base")  # untrained weights, which are easily beaten
    short = {"max_epochs": 1, "steps_per_epoch": 60, "train_batch_size": 2}
    assert server.request("POST", "/train/oneprompt_specialist", json=short).status_code == 200
    told = wait(server, lambda told: told["specialist"]["state"] not in ("idle", "running"))["specialist"]
    assert told["state"] == "published", told
    assert told["after"]["dice"] > told["before"]["dice"]
    offered = told["offered"]
    assert (offered["structures"], offered["won_from"]) == (["organ"], 2)
    model = server.get("/info/")["models"]["oneprompt_specialist"]
    assert (model["type"], model["labels"]) == ("segmentation", {"organ": 1})
    assert "from 2 labelled studies on" in model["description"]
    server.wait_for(lambda _: (made_by(server, "s3") or {}).get("weights") == offered["hash"])
    assert made_by(server, "s3") == {"weights": offered["hash"], "share": offered["share"], "structures": ["organ"]}
    assert server.infer("oneprompt_specialist", "s3", {}).status_code == 200
    assert server.request("DELETE", "/model/oneprompt_specialist").status_code == 200
    server.wait_for(lambda _: made_by(server, "s3") is None)
    assert "oneprompt_specialist" not in server.get("/info/")["models"]
    assert server.request("POST", "/oneprompt/specialist", json={"use": True}).json()["hash"] == offered["hash"]
    server.wait_for(lambda _: made_by(server, "s3") is not None)
    assert server.request("POST", "/oneprompt/specialist", json={"use": False}).json()["withdrawn"]
    server.request("POST", f"/oneprompt/versions/{served}")
    server.wait_for(lambda status: made_by(server, "s3") is None and status["job"]["state"] == "done")


@pytest.fixture(scope="module")
def under_way(server: Server) -> Server:
    """The server with a long training, of which an epoch is done."""
    train(server, **LONG)
    wait(server, lambda told: told["state"] == "running" and told.get("epoch", 0) >= 1)
    return server


def test_a_second_training_is_refused_or_waits(under_way: Server) -> None:
    answer = under_way.request("POST", "/train/oneprompt", json=LONG)
    assert answer.status_code == 429
    assert "already running" in answer.json()["detail"]
    assert under_way.request("POST", "/train/oneprompt?enqueue=true", json=LONG).status_code == 200
    assert under_way.get("/oneprompt/training")["queued"] == 1


def test_a_killed_training_is_gone_on_with(under_way: Server) -> None:
    killed = under_way.get("/oneprompt/training")
    os.kill(killed["pid"], signal.SIGKILL)
    told = wait(under_way, lambda told: told.get("pid") != killed["pid"] and told.get("epoch", 0) > killed["epoch"])
    assert told["state"] == "running"  # the one that waited
    assert told["curve"][: len(killed["curve"])] == killed["curve"]


def test_a_training_goes_on_after_the_machine_went_down(under_way: Server) -> None:
    running = under_way.get("/oneprompt/training")
    under_way.kill()
    os.kill(running["pid"], signal.SIGKILL)
    under_way.start()
    told = wait(under_way, lambda told: told.get("pid") != running["pid"] and told.get("epoch", 0) > running["epoch"])
    assert told["curve"][: len(running["curve"])] == running["curve"]


def test_a_stopped_training_leaves_what_is_served(under_way: Server) -> None:
    under_way.request("POST", "/train/oneprompt?enqueue=true", json=LONG)
    assert under_way.request("DELETE", "/train/").json()["status"] == "STOPPED"
    told = wait(under_way, ended)
    assert told["state"] == "stopped"
    assert told["queued"] == 0  # neither does the one that waited begin
    published = [version["hash"] for version in told["versions"] if version["state"] == "published"]
    assert published == [told["served"]]  # whatever happened to the trainings
    assert under_way.request("GET", "/train/?check_if_running=true").status_code == 404


def test_a_deleted_model_is_the_configured_one_again(server: Server, tiny_weights: Path) -> None:
    assert server.request("DELETE", "/model/oneprompt").status_code == 200
    assert server.status()["weights"] == weights_hash(load_network(tiny_weights))
