"""Archives on a real Ray cluster of this machine: what dies, what is away, and what nevertheless is done once.

A stub segments where faults are the subject, the network in the last tests.
"""

import hashlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import psutil
import pyarrow.dataset
import pydicom
import pytest

from lib.cluster.connection import ClusterError, cluster
from lib.cluster.identity import own_identity
from scripts.archive.rows import content_digest
from scripts.archive.run import Unfinished, alone
from scripts.archive.storage import Storage
from scripts.archive.studies import Folder
from scripts.phantoms.dicom_series import make_uid
from scripts.segment_archive import main
from scripts.servers.orthanc import Orthanc, load_folder
from tests import dicom_samples
from tests.samples import organ_volume, write_nifti
from tests.scripts.archive.stubs import FULL, OtherWeights, computed, recorded, run, states, wait_for

pytestmark = pytest.mark.needs("ray")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on two processors."""
    with cluster(cpus=2, store_mb=100) as ray:
        yield ray


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def archive(folder: Path, names: list[str]) -> Folder:
    """Studies of these names, each with its own voxels."""
    folder.mkdir()
    for seed, name in enumerate(names):
        write_nifti(folder / f"{name}.nii.gz", organ_volume(seed)[0])
    return Folder(str(folder))


def masks(out: Path) -> dict[str, str]:
    """{mask: hash of its file}."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "masks").iterdir())}


def start_driver(folder: Path, out: Path, notes: Path, *address: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.scripts.archive.stubs", str(folder), str(out), str(notes), *address]
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "2"}  # with a head that is gone
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **patience}, stdout=quiet, stderr=quiet)


def test_a_killed_worker_costs_only_its_studies_and_changes_no_byte(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a", "b-once", "c", "d", "e-once", "f"])
    failing = run(ray, source, tmp_path / "out", notes)
    calm = run(ray, source, tmp_path / "calm", notes)  # the flags are there: nobody kills anybody now
    assert set(states(failing).values()) == {"segmented"}
    assert failing.progress.crashes == 2
    assert masks(tmp_path / "out") == masks(tmp_path / "calm")
    assert content_digest(failing.manifest.rows()) == content_digest(calm.manifest.rows())
    again = Counter(computed(notes)) - Counter(
        2 * [f"{name}.nii.gz" for name in ("a", "b-once", "c", "d", "e-once", "f")]
    )
    assert again == Counter(["b-once.nii.gz", "e-once.nii.gz"])


def test_a_study_that_kills_its_worker_three_times_is_set_aside_with_the_reason(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a", "b-killer", "c"])
    driver = run(ray, source, tmp_path / "out", notes)
    row = next(row for row in driver.manifest.rows() if row["state"] == "set aside")
    assert row["study"] == "b-killer.nii.gz"
    assert "killed its worker 3 times" in row["reason"]
    assert computed(notes).count("b-killer.nii.gz") == 3
    assert computed(notes).count("a.nii.gz") == computed(notes).count("c.nii.gz") == 1
    run(ray, source, tmp_path / "out", notes)
    assert computed(notes).count("b-killer.nii.gz") == 3


def test_a_study_that_cannot_be_read_has_a_row_that_says_why(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a"])
    (tmp_path / "archive" / "torn.nii.gz").write_bytes(b"no nifti")
    driver = run(ray, source, tmp_path / "out", notes, workers=1)
    reasons = {row["study"]: row["reason"] for row in driver.manifest.rows() if row["state"] == "failed"}
    assert list(reasons) == ["torn.nii.gz"]
    assert "cannot be read" in reasons["torn.nii.gz"]


def test_the_last_studies_go_to_whoever_is_idle_and_wait_behind_none(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a-hold", "b", "c", "d", "e"])

    def let_go(progress: Any) -> None:
        if progress.done == 4:
            (notes / "go").touch()

    driver = run(ray, source, tmp_path / "out", notes, follow=let_go, total=5)
    assert set(states(driver).values()) == {"segmented"}
    assert driver.progress.done == 5


def test_a_killed_driver_goes_on_and_computes_nothing_twice(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a", "b", "c", "d-hold", "e", "f-hold", "g"])
    address = ray.get_runtime_context().gcs_address
    driver = start_driver(tmp_path / "archive", tmp_path / "out", notes, address)
    wait_for(lambda: (notes / "held").exists() and len(recorded(tmp_path / "out")) > 1)
    driver.kill()
    driver.wait()
    done = recorded(tmp_path / "out")
    (notes / "go").touch()
    before = Counter(computed(notes))
    finished = run(ray, source, tmp_path / "out", notes)
    assert set(states(finished).values()) == {"segmented"}
    assert len(finished.manifest.rows()) == 7
    assert not done & (Counter(computed(notes)) - before).keys()


def test_a_dead_head_ends_the_run_which_goes_on_on_another_cluster(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a", "b", "c-hold", "d-hold", "e"])
    driver = start_driver(tmp_path / "archive", tmp_path / "out", notes)
    wait_for(lambda: (notes / "held").exists())
    done = recorded(tmp_path / "out")
    children = psutil.Process(driver.pid).children(recursive=True)
    for process in children:
        if process.name() in ("gcs_server", "raylet"):
            process.kill()
    assert driver.wait(120) != 0
    (notes / "go").touch()
    before = Counter(computed(notes))
    finished = run(ray, source, tmp_path / "out", notes)
    assert set(states(finished).values()) == {"segmented"}
    assert len(finished.manifest.rows()) == 5
    assert not done & (Counter(computed(notes)) - before).keys()


def test_a_full_disk_stops_the_run_until_there_is_room(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a", "b", "c"])
    (notes / FULL).touch()

    def make_room(progress: Any) -> None:
        if progress.away:
            assert "No space left" in progress.away
            (notes / FULL).unlink(missing_ok=True)

    driver = run(ray, source, tmp_path / "out", notes, follow=make_room)
    assert (notes / "met-full-disk").exists()
    assert states(driver) == dict.fromkeys(["a.nii.gz", "b.nii.gz", "c.nii.gz"], "segmented")


def test_a_disk_that_stays_full_ends_the_run_unfinished_and_loses_nothing(ray, notes, tmp_path):
    source = archive(tmp_path / "archive", ["a"])
    (notes / FULL).touch()
    with pytest.raises(Unfinished, match="give the same command again"):
        run(ray, source, tmp_path / "out", notes, workers=1, patience=0)
    (notes / FULL).unlink()
    assert states(run(ray, source, tmp_path / "out", notes, workers=1)) == {"a.nii.gz": "segmented"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"identity": replace(own_identity(), code="0" * 16)}, "its code is .*: install the same checkout"),
        ({"identity": replace(own_identity(), packages=(("torch", "9.9"),))}, r"pip install torch==9\.9"),
        ({"method": OtherWeights}, "must be stub: install the same checkout"),
    ],
    ids=["code", "package", "weights"],
)
def test_workers_with_other_code_or_weights_are_refused_with_what_to_install(ray, notes, tmp_path, change, told):
    change = {name: value(notes) if isinstance(value, type) else value for name, value in change.items()}
    with pytest.raises(ClusterError, match=told):
        run(ray, archive(tmp_path / "archive", ["a"]), tmp_path / "out", notes, workers=1, **change)
    assert computed(notes) == []


def test_the_manifest_is_read_by_anybody_while_it_grows(ray, notes, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.archive.run.PART_ROWS", 1)
    seen = []

    def look(progress: Any) -> None:
        if (tmp_path / "out" / "manifest").exists():
            seen.append(pyarrow.dataset.dataset(tmp_path / "out" / "manifest", format="parquet").count_rows())
        if len(seen) > 1 and max(seen) >= 1:
            (notes / "go").touch()

    source = archive(tmp_path / "archive", ["a", "b", "c-hold", "d"])
    run(ray, source, tmp_path / "out", notes, follow=look)
    look(None)
    assert seen == sorted(seen)
    assert 1 <= seen[0] < 4
    assert seen[-1] == 4


def test_no_cluster_at_an_address_says_what_to_do():
    os.environ.pop("RAY_ADDRESS", None)
    # In a process of its own: this one is connected
    code = "from lib.cluster.connection import cluster\nwith cluster('127.0.0.1:9'): pass"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr
    assert "ray start --head" in done.stderr


@pytest.mark.needs("Orthanc")
def test_a_dicomweb_server_that_goes_away_and_comes_back_gets_every_mask_once(ray, notes, tmp_path):
    from scripts.archive.servers import DICOMweb, SegsOnDICOMweb

    series = [str(make_uid("archive", name)) for name in "abc"]
    for uid in series:
        dicom_samples.write(tmp_path / "series" / uid, uid=uid, patient=uid[-5:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Orthanc(tmp_path / "orthanc", port) as orthanc:
        load_folder(orthanc.url, tmp_path / "series")
        source, output = DICOMweb(orthanc.dicomweb), SegsOnDICOMweb(orthanc.dicomweb)
        outages = []

        def leave_and_come_back(progress: Any) -> None:
            if progress.done == 1 and not outages:
                outages.append("away")
                orthanc.stop()
            if progress.away and outages == ["away"]:
                outages.append("back")
                orthanc.start()

        driver = run(ray, source, tmp_path / "out", notes, 1, output, follow=leave_and_come_back)
        assert states(driver) == dict.fromkeys(series, "segmented")
        run(ray, source, tmp_path / "again", notes, 1, output)  # another folder: everything is sent once more
        found = output.client.search_for_series(search_filters={"Modality": "SEG"})
        sent = {row["mask"] for row in driver.manifest.rows()}
        assert {series["0020000E"]["Value"][0] for series in found} == sent
        assert len(sent) == 3
    assert outages == ["away", "back"]


@pytest.fixture
def study_list(tmp_path: Path) -> Path:
    """A MONAI Label study list with one final label and one study without."""
    from infers.label_records import FINAL, LabelRecord
    from infers.store.datastore import StudyStore

    folder = tmp_path / "list"
    folder.mkdir()
    image, label = organ_volume(0)
    write_nifti(folder / "labelled.nii.gz", image)
    write_nifti(folder / "new.nii.gz", organ_volume(1)[0])
    store = StudyStore(str(folder))
    write_nifti(tmp_path / "label.nii.gz", label * 3)
    record = LabelRecord.from_json({"label_names": {"kidney": 3}, "structures": {"kidney": 3}})
    store.save("labelled", tmp_path / "label.nii.gz", FINAL, record)
    return folder


def test_the_command_segments_an_archive_by_a_study_lists_bank(ray, study_list, tiny_weights, tmp_path, capsys):
    (tmp_path / "archive").mkdir()
    new = write_nifti(tmp_path / "archive" / "new.nii.gz", organ_volume(2)[0])
    (tmp_path / "archive" / "copy.nii.gz").write_bytes((study_list / "labelled.nii.gz").read_bytes())
    uid = str(make_uid("archive", "one"))
    dicom_samples.write(tmp_path / "archive" / "deeper" / "series", uid=uid)
    before = sorted(path.name for path in study_list.rglob("*"))
    out = tmp_path / "out"
    command = [str(tmp_path / "archive"), str(out), "--templates", str(study_list), "--weights", str(tiny_weights)]
    assert main([*command, "--workers", "1"]) == 0
    rows = {row["study"]: row for row in pyarrow.dataset.dataset(out / "manifest").to_table().to_pylist()}
    assert {study: row["state"] for study, row in rows.items()} == {
        "copy.nii.gz": "labelled", "new.nii.gz": "segmented", "deeper/series": "segmented"
    }  # fmt: skip
    row, mask = rows["new.nii.gz"], nibabel.load(out / "masks" / "new.nii.gz")
    assert mask.affine.tolist() == nibabel.load(new).affine.tolist()
    assert (row["structure"], row["templates"]) == ("kidney", ["labelled"])
    assert row["voxels"] == int((mask.get_fdata() == row["value"]).sum())
    assert 0 <= row["low"] <= row["dice"] <= row["high"] <= 1
    assert row["encode_seconds"] > 0
    assert sorted(path.name for path in study_list.rglob("*")) == before  # a server may be at work there
    _another_run_in_its_folder_is_refused(command, study_list, capsys)
    _dicom_seg_refers_to_its_series(command, uid, tmp_path)


def _another_run_in_its_folder_is_refused(command: list[str], study_list: Path, capsys: Any) -> None:
    assert main([*command[:2], "--templates", str(study_list), "--most-templates", "2", *command[4:]]) == 1
    assert "holds the manifest of another run (its method is" in capsys.readouterr().err
    with alone(Storage(command[1])):
        assert main([*command, "--workers", "1"]) == 1
    assert "another start of this run" in capsys.readouterr().err


def _dicom_seg_refers_to_its_series(command: list[str], uid: str, tmp_path: Path) -> None:
    """And what is no DICOM gets a row that says so; --dry-run writes nothing."""
    segs = tmp_path / "segs"
    command = [command[0], str(segs), *command[2:], "--form", "seg", "--workers", "1"]
    assert main([*command, "--dry-run", "1"]) == 0
    assert not segs.exists()
    assert main(command) == 0
    seg = pydicom.dcmread(segs / "masks" / "deeper" / "series.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    failed = {row["study"]: row["reason"] for row in pyarrow.dataset.dataset(segs / "manifest").to_table().to_pylist()}
    assert "write NIfTI (--form nifti)" in failed["new.nii.gz"]
