"""The background job in the real server: people first, cancel, kill and resume, from any working directory."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import pytest

from tests.samples import organ_volume, write_nifti
from tests.server.conftest import Server

SHAPE = (40, 40, 40)  # large enough that a study takes a noticeable time
COUNT = 14  # and a list of them several seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes, and labels beside them."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "studies").mkdir()
    for number in range(COUNT):
        image, mask = organ_volume(number, SHAPE)
        write_nifti(folder / "studies" / f"s{number}.nii.gz", image)
        write_nifti(folder / f"label{number}.nii.gz", mask)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    """A server on a copy of the volumes."""
    shutil.copytree(folder / "studies", folder / "first")
    return start_server(folder / "first", auto_propagate="true")


def running(status: dict) -> bool:
    """The job is at work and at least one mask is done."""
    return status["job"]["state"] == "running" and status["job"]["done"] >= 1


def test_people_go_first_while_the_job_runs(server: Server, folder: Path) -> None:
    server.save_label("s0", folder / "label0.nii.gz", ["organ"])
    server.wait_for(running)
    click = {"foreground": [[20, 20, 20]], "label": "organ", "slice": 20}
    informed = threading.Event()

    def ask_for_information() -> None:
        server.get("/info/")
        informed.set()

    asking = threading.Thread(target=ask_for_information)
    asking.start()
    answer = server.infer("oneprompt_slice", "s7", click)
    asking.join()
    status = server.status()
    assert answer.status_code == 200, answer.text
    assert informed.is_set()
    assert status["job"]["state"] == "running"  # neither had to wait for the job's end
    assert status["job"]["done"] < COUNT - 1


def test_a_label_saved_while_the_job_runs_is_not_lost(server: Server, folder: Path) -> None:
    server.save_label("s1", folder / "label1.nii.gz", ["organ"])
    status = server.wait_for_masks(templates=2)
    assert status["job"]["done"] == status["job"]["total"] == COUNT - 2
    for number in range(2, COUNT):
        told = server.get(f"/datastore/label/info?label=s{number}&tag=original")["params"]
        assert sorted(told["templates"]) == ["s0", "s1"]


def test_a_cancelled_job_stops_and_goes_on_when_asked(server: Server, folder: Path) -> None:
    server.save_label("s2", folder / "label2.nii.gz", ["organ"])  # every mask is to be made again
    assert server.request("DELETE", "/oneprompt/job").status_code == 202
    status = server.wait_for(lambda status: status["job"]["state"] == "cancelled")
    assert status["job"]["done"] < status["job"]["total"]
    shutil.copy(folder / "studies" / "s0.nii.gz", folder / "first" / "new.nii.gz")  # news do not wake it
    status = server.wait_for(lambda status: "new" in status["studies"] and status["job"]["idle"])
    assert status["job"]["state"] == "cancelled"
    assert server.request("POST", "/oneprompt/job").status_code == 202
    status = server.wait_for_masks(templates=3)
    assert status["job"]["run"] >= 2


def masks(folder: Path) -> dict[str, tuple[int, bytes]]:
    """{file name: when it was written, its bytes} of the automatic masks, each of which must be whole."""
    found = {}
    for path in (folder / "labels" / "original").glob("*.nii.gz"):
        assert nibabel.load(path).get_fdata().shape == SHAPE
        found[path.name] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


def test_a_server_killed_at_any_moment_goes_on_and_nothing_is_lost_or_done_twice(
    folder: Path, start_server: Callable[..., Server]
) -> None:
    studies, moments, count = folder / "second", random.Random(4), 8
    studies.mkdir()
    for number in range(count):
        shutil.copy(folder / "studies" / f"s{number}.nii.gz", studies)
    server = start_server(studies, quiet_seconds="3600")
    click = {"foreground": [[20, 20, 20]], "label": "organ", "use_as_template": True}
    assert server.infer("oneprompt_click", "s7", click).status_code == 200
    assert server.save_label("s0", folder / "label0.nii.gz", ["organ"]).status_code == 200
    label = (studies / "labels" / "final" / "s0.nii.gz").read_bytes()
    done: dict[str, tuple[int, bytes]] = {}
    for life in range(3):
        if life:
            server.start()
        time.sleep(moments.uniform(0.0, 2.0))
        server.kill()
        now = masks(studies)
        assert {name: now.get(name) for name in done} == done  # what was done is neither lost nor done twice
        assert (studies / "labels" / "final" / "s0.nii.gz").read_bytes() == label
        done = now
        if life == 1:
            (studies / "datastore_v2.json").write_text("{ torn")  # as MONAI Label itself would have left it
    server.start()
    status = server.wait_for_masks(templates=1)
    assert status["job"]["done"] == count - 1
    now = masks(studies)
    assert {name: now[name] for name in done} == done
    assert len(now) == count - 1
    assert list(server.get("/datastore/label/info?label=s0&tag=final")["structures"]) == ["organ"]
    rows = server.get("/oneprompt/studies")["studies"]
    assert [row["id"] for row in rows if row["offered"]] == ["s7"]  # the result still waits
