from pathlib import Path

import numpy as np
import pytest
import requests

from infers.errors import NotFound
from infers.label_records import FINAL, LabelRecord, Statement
from infers.names import LabelMap
from infers.store.datastore import StudyStore
from infers.study_list.acceptance import Acceptance
from infers.study_list.pending_results import PendingResults
from lib.imaging.images import read_image, read_label
from lib.segmenters.contract import Prediction
from tests.infers.fakes import wait_until
from tests.samples import organ_volume, write_nifti

SHAPE = (24, 20, 8)


class Annotator:
    """A study, and an acceptance that notes what it accepted."""

    def __init__(self, folder: Path, quiet: float = 0.05) -> None:
        write_nifti(folder / "s0.nii.gz", organ_volume(0)[0])
        self.store = StudyStore(str(folder))
        self.accepted: list[str] = []
        self.labels = LabelMap(self.store.state / "labels.json")
        self.offers = PendingResults(self.store.state / "offers")
        self.acceptance = Acceptance(self.store, self.offers, quiet, self.accepted.append, self.labels.learn)
        self.image = read_image(folder / "s0.nii.gz")

    def offer(self, mask: np.ndarray, name: str = "organ") -> None:
        self.acceptance.put("s0", Prediction(mask.astype(np.uint8) * 9, {name: 9}, {}, {"weights": "w"}))

    def final(self) -> np.ndarray:
        return read_label(self.store.label("s0", FINAL).path, self.image)


@pytest.fixture
def annotator(tmp_path):
    (tmp_path / "studies").mkdir()
    return Annotator(tmp_path / "studies")


def box(i0, i1, k0=0, k1=8):
    mask = np.zeros(SHAPE, bool)
    mask[i0:i1, 3:9, k0:k1] = True
    return mask


def full_disk(*args, **options):
    raise OSError("disk full")


def test_the_last_result_before_quiet_becomes_the_final_label(annotator):
    annotator.offer(box(1, 5))
    annotator.offer(box(2, 9))
    assert annotator.acceptance.waiting() == ["s0"]
    wait_until(lambda: annotator.accepted)
    np.testing.assert_array_equal(annotator.final(), box(2, 9))
    record = annotator.store.label("s0", FINAL)
    assert record.record.to_json()["accepted"]
    assert record.record.to_json()["label_names"] == {"organ": 1}
    assert annotator.accepted == ["s0"]


def test_structures_clicked_one_after_the_other_end_in_one_label(annotator):
    annotator.offer(box(1, 5), "organ")
    wait_until(lambda: annotator.accepted)
    annotator.offer(box(10, 15), "lesion")
    wait_until(lambda: len(annotator.accepted) == 2)
    np.testing.assert_array_equal(annotator.final(), box(1, 5) + 2 * box(10, 15))
    assert annotator.store.get_label_info("s0", FINAL)["label_names"] == {"organ": 1, "lesion": 2}


def test_a_submitted_label_is_never_replaced(annotator, tmp_path):
    annotator.offer(box(1, 5))
    submitted = write_nifti(tmp_path / "label.nii.gz", box(8, 9).astype(np.uint8))
    annotator.store.save_label("s0", str(submitted), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    wait_until(lambda: not annotator.acceptance.waiting())
    np.testing.assert_array_equal(annotator.final(), box(8, 9))
    assert annotator.accepted == []


def test_an_empty_result_or_a_removed_study_becomes_nothing(annotator):
    annotator.offer(box(0, 0))
    wait_until(lambda: not annotator.acceptance.waiting())
    assert annotator.store.label("s0", FINAL) is None
    annotator.offer(box(1, 5))
    annotator.store.remove_image("s0")
    wait_until(lambda: not annotator.acceptance.waiting())
    assert annotator.accepted == []


def test_a_result_that_waited_when_the_server_was_killed_waits_again(tmp_path):
    (tmp_path / "studies").mkdir()
    killed = Annotator(tmp_path / "studies", quiet=3600)
    killed.offer(box(1, 5), "organ")
    prediction = Prediction(box(10, 15).astype(np.uint8), {"lesion": 1}, {}, {"weights": "w"})
    killed.acceptance.put("s0", prediction, "anna")
    after = Annotator(tmp_path / "studies")
    assert after.acceptance.waiting() == []
    after.acceptance.start()
    wait_until(lambda: after.accepted)
    np.testing.assert_array_equal(after.final(), box(1, 5) + 2 * box(10, 15))
    info = after.store.get_label_info("s0", FINAL)
    assert info["provenance"] == {"weights": "w", "templates": [], "model": "oneprompt"}
    assert info["user"] == "anna"
    assert list(after.offers.read()) == []


def test_a_result_accepted_now_does_not_come_back(annotator):
    annotator.acceptance._quiet = 3600
    annotator.offer(box(1, 5))
    assert annotator.acceptance.accept_now("s0", "anna")
    assert annotator.store.get_label_info("s0", FINAL)["user"] == "anna"
    assert list(annotator.offers.read()) == []
    with pytest.raises(NotFound, match="accepted already"):
        annotator.acceptance.accept_now("s0", "anna")


def test_a_result_that_cannot_be_saved_now_is_kept(annotator, monkeypatch):
    annotator.acceptance._quiet = 3600
    annotator.offer(box(1, 5))
    monkeypatch.setattr(annotator.store, "save_accepted", full_disk)
    with pytest.raises(OSError, match="disk full"):
        annotator.acceptance.accept_now("s0", "anna")
    assert annotator.acceptance.waiting() == ["s0"]
    assert [image_id for image_id, _ in annotator.offers.read()] == ["s0"]


@pytest.mark.parametrize("error", [OSError("disk full"), requests.ConnectionError("refused")])
def test_a_result_that_cannot_be_saved_after_quiet_waits_until_it_can(annotator, monkeypatch, error):
    tried, save = [], annotator.store.save_accepted

    def fail_twice(*args, **options):
        tried.append(args)
        if len(tried) <= 2:
            raise error
        return save(*args, **options)

    monkeypatch.setattr(annotator.store, "save_accepted", fail_twice)
    annotator.offer(box(1, 5))
    wait_until(lambda: annotator.accepted)
    np.testing.assert_array_equal(annotator.final(), box(1, 5))
    assert list(annotator.offers.read()) == []


def test_a_structure_that_could_not_be_saved_is_not_lost_to_one_that_came_meanwhile(annotator, monkeypatch):
    def click_the_next_one(*args, **options):
        monkeypatch.undo()
        annotator.offer(box(10, 15), "lesion")
        raise OSError("disk full")

    monkeypatch.setattr(annotator.store, "save_accepted", click_the_next_one)
    annotator.offer(box(1, 5), "organ")
    wait_until(lambda: annotator.accepted)
    names = annotator.store.get_label_info("s0", FINAL)["label_names"]
    np.testing.assert_array_equal(annotator.final(), names["organ"] * box(1, 5) + names["lesion"] * box(10, 15))


def test_a_label_that_is_submitted_while_a_result_is_saved_is_not_replaced(annotator, tmp_path, monkeypatch):
    submitted = write_nifti(tmp_path / "label.nii.gz", box(8, 9).astype(np.uint8))
    save = annotator.store.save_accepted

    def submit_before(*args, **options):
        annotator.store.save_label("s0", str(submitted), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
        return save(*args, **options)

    monkeypatch.setattr(annotator.store, "save_accepted", submit_before)
    annotator.acceptance._quiet = 3600
    annotator.offer(box(1, 5))
    assert annotator.acceptance.accept_now("s0", "anna") is False
    np.testing.assert_array_equal(annotator.final(), box(8, 9))
    assert annotator.accepted == []


def test_a_label_that_is_accepted_while_a_result_is_saved_keeps_its_structures(annotator, tmp_path, monkeypatch):
    other = write_nifti(tmp_path / "label.nii.gz", 2 * box(10, 15).astype(np.uint8))
    annotator.labels.learn(["organ", "lesion"])
    save = annotator.store.save_accepted

    def accept_before(*args, **options):
        monkeypatch.undo()
        record = LabelRecord(Statement(label_names={"lesion": 2}), accepted="elsewhere")
        assert save("s0", other, record, over=None)
        return save(*args, **options)

    monkeypatch.setattr(annotator.store, "save_accepted", accept_before)
    annotator.offer(box(1, 5))
    wait_until(lambda: annotator.accepted)
    np.testing.assert_array_equal(annotator.final(), box(1, 5) + 2 * box(10, 15))


def test_a_torn_file_of_a_waiting_result_is_set_aside(annotator, caplog):
    annotator.acceptance._quiet = 3600
    annotator.offer(box(1, 5))
    (path,) = (annotator.store.state / "offers").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    assert list(annotator.offers.read()) == []
    assert path.with_name("s0.npz.broken").exists()
    assert "s0.npz" in caplog.text


def test_a_result_for_an_image_that_changed_becomes_nothing(annotator, tmp_path, caplog):
    annotator.acceptance._quiet = 0.2
    annotator.offer(box(1, 5))
    write_nifti(tmp_path / "studies" / "s0.nii.gz", organ_volume(0, (10, 10, 4))[0])
    wait_until(lambda: not annotator.acceptance.waiting() and "changed since" in caplog.text)
    assert annotator.store.label("s0", FINAL) is None
