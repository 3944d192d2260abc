"""What a long list must not cost: work that follows from what changes, not from how long the list is."""

import os
import threading
from pathlib import Path

import pytest
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

import infers.store.locked
import infers.store.study_files
import infers.store.watch
from infers.label_records import AUTOMATIC, FINAL, LabelRecord
from infers.records import read_record
from infers.store.datastore import StudyStore
from infers.store.locked import index_bytes
from infers.store.watch import FolderWatch
from infers.study_list.studies import MODELS
from lib.plain_json import plain_json
from tests.infers.fakes import mask_record, wait_until
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def slow_index(monkeypatch):
    """Writing the index counts as slow, as it is on a long list, and the next write is far away."""
    monkeypatch.setattr(infers.store.locked, "QUICK", -1.0)
    monkeypatch.setattr(infers.store.locked, "SHARE", 1e9)


def add_mask(store, image_id, folder):
    assert store.save_automatic(image_id, folder.parent / "label.nii.gz", mask_record(key="k"), MODELS)


def test_masks_of_a_job_wait_to_be_in_a_long_lists_index_and_are_there_after_a_kill(folder, slow_index):
    store, index = StudyStore(str(folder)), folder / "datastore_v2.json"
    before = index.read_bytes()
    add_mask(store, "s1", folder)
    assert index.read_bytes() == before
    assert AUTOMATIC in store.records("s1")
    assert AUTOMATIC in StudyStore(str(folder)).records("s1")  # files are the truth


def test_masks_that_wait_are_not_lost_when_another_process_writes_the_index(folder, slow_index):
    store, other = StudyStore(str(folder)), StudyStore(str(folder))
    add_mask(store, "s1", folder)
    other.update_image_info("s2", {"note": "seen"})
    store.save("s2", folder.parent / "label.nii.gz", FINAL, LabelRecord())
    assert {AUTOMATIC} == set(store.records("s1"))
    assert store.notes() == {"s2": "seen"}
    assert '"original"' in (folder / "datastore_v2.json").read_text()


def test_the_index_of_a_long_list_is_written_when_it_is_time(folder, monkeypatch):
    monkeypatch.setattr(infers.store.locked, "QUICK", -1.0)
    monkeypatch.setattr(infers.store.locked, "SHARE", 0.0)
    add_mask(StudyStore(str(folder)), "s1", folder)
    wait_until(lambda: '"original"' in (folder / "datastore_v2.json").read_text())


def test_a_look_reads_only_the_records_that_changed(folder, monkeypatch):
    store = StudyStore(str(folder))
    for image_id in ("s0", "s1", "s2"):
        add_mask(store, image_id, folder)
    store.refresh()
    reads, read = [], infers.store.study_files.read_sidecar

    def counted(path, *others):
        reads.append(path.name)
        return read(path, *others)

    monkeypatch.setattr(infers.store.study_files, "read_sidecar", counted)
    store.refresh()
    assert reads == []
    other = StudyStore(str(folder))
    other.amend("s1", AUTOMATIC, lambda record: mask_record(key="another"))
    reads.clear()
    store.refresh()
    assert reads == ["s1.oneprompt.json"]
    made = store.records("s1")[AUTOMATIC].provenance
    assert made is not None
    assert made.fingerprint == "another"


def test_a_record_is_the_same_object_until_it_changes(folder):
    store = StudyStore(str(folder))
    add_mask(store, "s1", folder)
    first = store.overview()
    assert list(first) == ["s0", "s1", "s2"]
    assert store.overview()["s1"][AUTOMATIC] is first["s1"][AUTOMATIC] is store.records("s1")[AUTOMATIC]
    assert all(records is first[image_id] for image_id, records in store.overview().items())
    store.amend("s1", AUTOMATIC, lambda record: mask_record(key="another"))
    assert store.overview()["s1"][AUTOMATIC] is not first["s1"][AUTOMATIC]
    store.remove_label("s1", AUTOMATIC)
    assert store.overview()["s1"] == {}


def test_which_images_have_a_label_is_known_after_every_change(folder):
    store = StudyStore(str(folder))
    label = folder.parent / "label.nii.gz"

    def tagged():
        return store.get_labeled_images(), store.with_tag(AUTOMATIC)

    assert tagged() == ([], [])
    add_mask(store, "s1", folder)
    assert tagged() == ([], ["s1"])
    store.save("s2", label, FINAL, LabelRecord())
    assert tagged() == (["s2"], ["s1"])
    StudyStore(str(folder)).save("s0", label, FINAL, LabelRecord())
    store.refresh()
    assert tagged() == (["s0", "s2"], ["s1"])
    store.remove_automatic(MODELS)
    store.remove_label("s2", FINAL)
    assert tagged() == (["s0"], [])
    store.with_tag(FINAL).clear()  # what is given away is a copy
    assert store.with_tag(FINAL) == ["s0"]


def test_a_mask_is_saved_without_a_look_at_all_the_others(folder, monkeypatch):
    store = StudyStore(str(folder))
    add_mask(store, "s1", folder)
    monkeypatch.setattr(os, "scandir", lambda *path: pytest.fail("the folder of masks was listed"))
    add_mask(store, "s1", folder)
    add_mask(store, "s2", folder)


def test_an_index_that_is_quick_to_write_and_still_no_trifle_waits_too(folder, monkeypatch):
    monkeypatch.setattr(infers.store.locked, "LITTLE", -1.0)
    monkeypatch.setattr(infers.store.locked, "SHARE", 1e9)
    store, index = StudyStore(str(folder)), folder / "datastore_v2.json"
    before = index.read_bytes()
    add_mask(store, "s1", folder)
    assert index.read_bytes() == before


@pytest.mark.parametrize("odd", ["half \udc80 a pair", float("nan"), 2**70, "Ω"])
def test_whatever_an_index_holds_it_can_be_read_again(odd, tmp_path):
    objects = {"s0": ImageLabelModel(image=DataModel(info={"note": odd, "more": [odd]}, ext=".nii.gz"))}
    model = LocalDatastoreModel(name="list", description="", objects=objects)
    (tmp_path / "index.json").write_bytes(index_bytes(model))
    info = read_record(tmp_path / "index.json")["objects"]["s0"]["image"]["info"]
    assert info == plain_json({"note": odd, "more": [odd]})


def test_the_list_has_another_version_whenever_something_of_it_changed(folder):
    store = StudyStore(str(folder))
    versions = [store.version]

    def changed():
        versions.append(store.version)
        return versions[-1] != versions[-2]

    assert not changed()
    add_mask(store, "s1", folder)
    assert changed()
    store.note_image("s1", "odd")
    assert changed()
    store.amend("s1", AUTOMATIC, lambda record: mask_record(key="another"))
    assert changed()
    store.remove_label("s1", AUTOMATIC)
    assert changed()
    (folder / "s2.nii.gz").unlink()
    store.refresh()
    assert changed()


def test_what_the_server_writes_itself_is_no_news_to_its_watch_and_what_others_write_is(folder, monkeypatch):
    monkeypatch.setattr(infers.store.watch, "SETTLE", 0.05)
    looked, asked = threading.Event(), []

    def is_own(path: Path) -> bool:
        asked.append(path.name)
        return path.name == "own.nii.gz"

    FolderWatch(folder, looked.set, is_own)
    (folder / "own.nii.gz").write_bytes(b"mine")
    wait_until(lambda: "own.nii.gz" in asked)
    assert not looked.is_set()
    (folder / "theirs.nii.gz").write_bytes(b"theirs")
    assert looked.wait(60)


def test_a_label_is_the_stores_own_until_somebody_else_touches_it(folder, monkeypatch):
    watched = []
    monkeypatch.setattr(infers.store.study_files, "FolderWatch", lambda root, look, is_own: watched.append(is_own))
    store = StudyStore(str(folder), auto_reload=True)
    add_mask(store, "s1", folder)
    mask = folder / "labels" / AUTOMATIC / "s1.nii.gz"
    assert watched[0](mask)
    mask.write_bytes(b"another's")
    assert not watched[0](mask)
    assert not watched[0](folder / "s1.nii.gz")


def test_labels_and_images_that_are_gone_leave_the_list_and_links_are_followed(folder, tmp_path):
    target = tmp_path / "elsewhere.nii.gz"
    write_nifti(target, organ_volume(3)[0])
    (folder / "linked.nii.gz").symlink_to(target)
    store = StudyStore(str(folder))
    add_mask(store, "s1", folder)
    assert "linked" in store.list_images()
    target.unlink()
    (folder / "labels" / AUTOMATIC / "s1.nii.gz").unlink()
    (folder / "s0.nii.gz").unlink()
    store.refresh()
    assert store.list_images() == ["s1", "s2"]
    assert store.records("s1") == {}
