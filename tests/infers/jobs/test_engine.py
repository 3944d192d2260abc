"""The job on workers of a Ray cluster of this machine: the same masks, the same board, the same cancel."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from infers.jobs.engine import RayEngine
from infers.jobs.propagation import Propagation
from infers.label_records import AUTOMATIC, FINAL
from infers.serving.priority_lock import PriorityLock
from infers.study_list.studies import Studies
from lib.cluster.connection import cluster
from lib.imaging.images import read_image
from lib.segmenters.by_template import read_template
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.infers.fakes import make_studies, wait_until
from tests.infers.jobs.elsewhere import recipe_of
from tests.samples import organ_volume, write_nifti

pytestmark = pytest.mark.needs("ray")
ROOT = Path(__file__).parents[3]
SECONDS = 300
AWAY = "ray://127.0.0.1:9"


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """Ray on two processors, which this process is connected to: engines take what is connected already."""
    with cluster(cpus=2, store_mb=100) as ray:
        yield ray


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
def engine(ray: object, tiny_weights: Path, segmenter: SliceSegmenter) -> Iterator[RayEngine]:
    recipe = recipe_of(tiny_weights, segmenter)
    engine = RayEngine(AWAY, PriorityLock(), lambda _: recipe)
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


def test_a_cluster_that_is_lost_is_told_as_the_jobs_state_and_joined_anew(studies, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("infers.jobs.propagation.TRY_AGAIN", 0.5)
    lost = engine._joined().calls
    monkeypatch.setattr(type(lost), "alive", True)  # it is noticed when somebody needs it
    lost.abandon(ConnectionError("the head is gone"))
    job = Propagation(studies, PriorityLock(), tmp_path, engine=engine)
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "the Ray cluster was lost (ConnectionError: the head is gone)" in job.status().failed[""]
    monkeypatch.undo()
    job.trigger()
    wait_until(lambda: job.status().state == "done", SECONDS)
    assert len(masks(studies)) == 4


def test_a_cluster_that_is_away_is_told_as_the_jobs_state(studies, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.cluster.connection.load_ray", Unconnected)
    job = Propagation(studies, PriorityLock(), tmp_path, engine=RayEngine(AWAY, PriorityLock(), lambda _: None))
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert f"no Ray cluster answers at {AWAY}" in job.status().failed[""]


class Unconnected:
    """Ray before it is connected."""

    def is_initialized(self) -> bool:
        return False


@pytest.fixture
def client_address(ray: object) -> Iterator[str]:
    """Where the cluster answers processes that are none of its own, as a head does at its client port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--mode", "specific-server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--address", ray.get_runtime_context().gcs_address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port), SECONDS)
            yield f"ray://127.0.0.1:{port}"
        finally:
            process.kill()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_process_outside_the_cluster_is_lent_its_workers_through_the_heads_client_port(
    engine, client_address, studies, segmenter, tiny_weights, tmp_path
):
    engine.close()  # its workers have all processors
    files = [tmp_path / "studies" / "s1.nii.gz", tmp_path / "studies" / "s0.nii.gz", tmp_path / "label.nii.gz"]
    out = tmp_path / "mask.npy"
    command = [sys.executable, "-m", "tests.infers.jobs.elsewhere", client_address, tiny_weights, *files, out]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image, template = read_image(files[0]), read_template(*files[1:])
    expected = segmenter.segment(image, [template], {"label_1": 1}).mask
    np.testing.assert_array_equal(np.load(out), expected)
