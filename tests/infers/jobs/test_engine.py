"""The job on workers of a Ray cluster of this machine: the same masks, the same board, the same cancel."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infers.jobs.engine import RayEngine
from infers.jobs.propagation import Propagation
from infers.label_records import AUTOMATIC, FINAL
from infers.serving.priority_lock import PriorityLock
from infers.study_list.studies import Studies
from lib.cluster.connection import ROOT
from lib.cluster.segmenting import Recipe
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.infers.fakes import make_studies, wait_until
from tests.samples import organ_volume, write_nifti

pytestmark = pytest.mark.needs("ray")
SECONDS = 300


class Head:
    """The head of a Ray cluster on this machine, with two processors."""

    def __init__(self) -> None:
        self.port, self.client_port = (free_port() for _ in range(2))
        self.address = f"ray://127.0.0.1:{self.client_port}"

    def start(self) -> None:
        """Start it, and wait until clients are served."""
        options = {
            "port": self.port, "ray-client-server-port": self.client_port, "num-cpus": 2, "dashboard-port": free_port(),
            "object-store-memory": 100_000_000, "include-dashboard": "false",
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        self._process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: answers(self.client_port))

    def kill(self) -> None:
        """Like a machine that loses its power."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        for process in (*children, self._process):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(children, 30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head()
    head.start()
    yield head
    head.kill()


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path) -> SliceSegmenter:
    return SliceSegmenter.load(tiny_weights)


@pytest.fixture
def studies(tmp_path: Path, segmenter: SliceSegmenter) -> Studies:
    """Five studies, one of them a template."""
    (tmp_path / "studies").mkdir()
    for number in range(5):
        write_nifti(tmp_path / "studies" / f"s{number}.nii.gz", organ_volume(number)[0])
    label = write_nifti(tmp_path / "label.nii.gz", organ_volume(0)[1])
    studies = make_studies(str(tmp_path / "studies"), segmenter)
    studies.store.save_label("s0", str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    return studies


@pytest.fixture(scope="module")
def engine(head: Head, tiny_weights: Path, segmenter: SliceSegmenter) -> Iterator[RayEngine]:
    recipe = Recipe(tiny_weights.read_bytes(), segmenter._estimator, segmenter.settings, segmenter.fingerprint)
    engine = RayEngine(head.address, PriorityLock(), lambda _: recipe)
    yield engine
    engine.close()


def masks(studies: Studies) -> dict[str, tuple[str, object]]:
    """{study: checksum and weights of its automatic mask}."""
    labels = {id: studies.store.label(id, AUTOMATIC) for id in studies.store.list_images()}
    return {id: (label.checksum, label.record.provenance.weights) for id, label in labels.items() if label}


def test_workers_make_the_same_masks_as_this_process(studies, segmenter, engine, tmp_path):
    shutil.copytree(tmp_path / "studies", tmp_path / "other")
    other = make_studies(str(tmp_path / "other"), segmenter)
    for list_of_studies, own in ((studies, engine), (other, None)):
        (tmp_path / f"state-{own}").mkdir()
        job = Propagation(list_of_studies, PriorityLock(), tmp_path / f"state-{own}", engine=own)
        job.start()
        job.trigger()
        assert job.wait(SECONDS)
        status = job.status()
        assert (status.state, status.done, status.total, status.failed) == ("done", 4, 4, {})
    assert len(masks(studies)) == 4
    assert masks(studies) == masks(other)


def test_cancelling_and_undoing_a_run_on_workers_leaves_nothing_under_way(studies, engine, tmp_path):
    job = Propagation(studies, PriorityLock(), tmp_path, engine=engine)
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "running")
    job.undo()
    assert job.wait(SECONDS)
    assert job.status().state == "cancelled"
    assert masks(studies) == {}
    job.trigger()
    assert job.wait(SECONDS)
    assert len(masks(studies)) == 4


def test_a_cluster_that_is_lost_is_told_as_the_jobs_state_and_joined_anew(studies, engine, head, tmp_path, monkeypatch):
    monkeypatch.setattr("infers.jobs.propagation.TRY_AGAIN", 0.5)
    head.kill()
    job = Propagation(studies, PriorityLock(), tmp_path, engine=engine)
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "Ray cluster" in job.status().failed[""]
    head.start()
    wait_until(lambda: job.status().state == "done", SECONDS)
    assert len(masks(studies)) == 4
