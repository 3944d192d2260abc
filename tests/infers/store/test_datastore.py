import json
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, LabelRecord
from infers.store.datastore import StudyStore
from infers.study_list.studies import MODELS
from lib.imaging.images import ImageError, read_label
from tests.infers.fakes import mask_record
from tests.samples import organ_volume, write_nifti

ROOT = Path(__file__).resolve().parents[3]


def label_of(folder, name="label.nii.gz"):
    return str(folder.parent / name)


def test_images_are_listed_and_nothing_else_is(folder):
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.nii.gz").write_bytes(b"")
    (folder / "sub").mkdir()
    assert sorted(StudyStore(str(folder)).list_images()) == ["s0", "s1", "s2"]


def test_a_saved_label_is_found_by_a_new_start_with_what_was_said_about_it(folder):
    StudyStore(str(folder)).save_label("s0", label_of(folder), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    (folder / "datastore_v2.json").unlink()  # only an index: the files are the truth
    record = StudyStore(str(folder)).label("s0", FINAL)
    assert record.record.to_json()["label_info"] == [{"name": "organ", "idx": 1}]
    assert record.path.read_bytes() == Path(label_of(folder)).read_bytes()


def test_a_torn_index_is_kept_aside_and_made_anew(folder):
    StudyStore(str(folder)).save_label("s0", label_of(folder), FINAL, {})
    (folder / "datastore_v2.json").write_text('{"objects": {')
    store = StudyStore(str(folder))
    assert store.get_labeled_images() == ["s0"]
    assert (folder / "datastore_v2.json.broken").exists()


def test_an_index_of_another_monai_label_app_is_understood(folder):
    (folder / "labels" / "final").mkdir(parents=True)
    write_nifti(folder / "labels" / "final" / "s1.nii.gz", organ_volume(1)[1])
    labels = {"final": {"ext": ".nii.gz", "info": {"label_info": [{"name": "liver", "idx": 1}]}}}
    objects = {"s1": {"image": {"ext": ".nii.gz", "info": {}}, "labels": labels}}
    (folder / "datastore_v2.json").write_text(json.dumps({"name": "n", "description": "d", "objects": objects}))
    assert StudyStore(str(folder)).get_label_info("s1", FINAL)["label_info"][0]["name"] == "liver"


@pytest.mark.parametrize("name", ["../s0", "a/b", "a\\b", "", ".s0", "s\n0", "s" * 300])
def test_ids_and_tags_that_are_paths_are_refused(folder, name):
    store = StudyStore(str(folder))
    with pytest.raises(ClientError):
        store.save_label("s0", label_of(folder), name, {})
    with pytest.raises((ClientError, NotFound)):
        store.save_label(name, label_of(folder), FINAL, {})
    if name:
        with pytest.raises(ClientError):
            store.add_image(name, label_of(folder), {})
    assert sorted(path.name for path in folder.parent.iterdir()) == ["label.nii.gz", "studies"]


def test_a_persons_label_is_never_replaced_by_a_mask(folder):
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {})
    assert store.save_automatic("s0", Path(label_of(folder)), mask_record(), MODELS) is False
    assert store.records("s0").keys() == {FINAL}
    with pytest.raises(ClientError, match="person"):
        store.save_label("s1", label_of(folder), FINAL, {"model": "oneprompt"})


def test_a_mask_that_somebody_else_made_is_never_replaced_by_one_of_ours(folder, tmp_path):
    store, ours = StudyStore(str(folder)), mask_record()
    mask = write_nifti(tmp_path / "ours.nii.gz", organ_volume(7)[1])
    store.save_label("s0", label_of(folder), AUTOMATIC, {"user": "anna"})  # submitted as a draft
    store.save_automatic("s1", mask, ours, MODELS)
    stored = folder / "labels" / AUTOMATIC
    for image_id in ("s1", "s2"):  # copied there by hand, which the list does not know yet
        shutil.copy(label_of(folder), stored / f"{image_id}.nii.gz")
    for image_id in ("s0", "s1", "s2"):
        assert store.save_automatic(image_id, mask, ours, MODELS) is False
        assert (stored / f"{image_id}.nii.gz").read_bytes() == Path(label_of(folder)).read_bytes()
        assert store.records(image_id)[AUTOMATIC].provenance is None  # the list says so, so that nobody tries again


def test_a_mask_that_was_just_replaced_by_hand_is_not_removed_with_ours(folder):
    store = StudyStore(str(folder))
    for image_id in ("s0", "s1"):
        store.save_automatic(image_id, Path(label_of(folder)), mask_record(), MODELS)
    write_nifti(folder / "labels" / AUTOMATIC / "s0.nii.gz", organ_volume(5)[1])
    assert store.remove_automatic(MODELS) == ["s1"]
    assert store.label("s0", AUTOMATIC) is not None


def test_a_mask_of_a_removed_study_is_not_stored(folder):
    store = StudyStore(str(folder))
    (folder / "s1.nii.gz").unlink()
    store.refresh()
    with pytest.raises(NotFound, match="s1"):
        store.save_automatic("s1", Path(label_of(folder)), mask_record(), MODELS)
    assert not (folder / "labels" / AUTOMATIC / "s1.nii.gz").exists()


def test_a_new_label_of_another_format_leaves_no_old_file(folder):
    store = StudyStore(str(folder))
    plain = write_nifti(folder.parent / "label.nii", organ_volume(0)[1])
    store.save_label("s0", label_of(folder), FINAL, {"first": True})
    store.save_label("s0", str(plain), FINAL, {"second": True})
    assert [path.name for path in (folder / "labels" / FINAL).glob("s0.nii*")] == ["s0.nii"]
    assert StudyStore(str(folder)).get_label_info("s0", FINAL)["second"]


def test_an_uploaded_image_never_replaces_another(folder):
    store = StudyStore(str(folder))
    same = str(folder / "s0.nii.gz")
    assert store.add_image("s0", same, {}) == "s0"
    with pytest.raises(ClientError, match="exists") as caught:
        store.add_image("s0", str(folder / "s1.nii.gz"), {})
    assert caught.value.status == 409
    (folder.parent / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageError):
        store.add_image("bad", str(folder.parent / "bad.nii.gz"), {})
    with pytest.raises(ClientError, match=r"\.exe"):
        store.add_image("x", str(folder.parent / "x.exe"), {})


def test_a_removed_label_takes_its_record_with_it(folder):
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {})
    store.remove_label("s0", FINAL)
    assert store.records("s0") == {}
    assert not list((folder / "labels").rglob("s0*"))
    with pytest.raises(NotFound):
        store.remove_label("s0", FINAL)


def test_what_is_learnt_about_a_label_stays_with_it(folder):
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {"first": 1})
    store.update_label_info("s0", FINAL, {"second": 2})
    store.update_image_info("s0", {"seen": True})
    (store.state.parent / "datastore_v2.json").rename(folder.parent / "lost.json")
    info = StudyStore(str(folder)).get_label_info("s0", FINAL)
    assert (info["first"], info["second"]) == (1, 2)
    for missing in (lambda: store.update_label_info("s0", "other", {}), lambda: store.update_image_info("s9", {})):
        with pytest.raises(NotFound):
            missing()


def test_a_change_of_a_record_keeps_what_other_programs_noted(folder):
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {"note": {"of": "others"}, "user": "anna"})
    store.amend("s0", FINAL, lambda record: replace(record, template=False))
    again = StudyStore(str(folder)).get_label_info("s0", FINAL)
    assert (again["note"], again["user"], again["template"]) == ({"of": "others"}, "anna", False)
    with pytest.raises(NotFound, match="other"):
        store.amend("s0", "other", lambda record: record)


def test_a_label_that_somebody_edits_by_hand_keeps_its_names_but_not_its_maker(folder):
    store = StudyStore(str(folder))
    info = {"model": "oneprompt", "params": {"key": "k"}, "label_names": {"organ": 1}}
    store.save_automatic("s0", Path(label_of(folder)), LabelRecord.from_json(info), MODELS)
    write_nifti(folder / "labels" / AUTOMATIC / "s0.nii.gz", organ_volume(5)[1])
    store.refresh()
    assert store.get_label_info("s0", AUTOMATIC) == {"label_names": {"organ": 1}}


def test_files_that_appear_are_noticed(folder):
    changed = threading.Event()
    store = StudyStore(str(folder), auto_reload=True)
    store.on_change(changed.set)
    write_nifti(folder / "late.nii.gz", organ_volume(4)[0])
    assert changed.wait(120)
    assert "late" in store.list_images()


def test_two_processes_and_several_threads_lose_nothing(folder):
    store = StudyStore(str(folder))
    other = """
import sys
from pathlib import Path
from infers.store.datastore import StudyStore
from tests.infers.fakes import mask_record
store = StudyStore(sys.argv[1])
for number in range(10):
    store.update_image_info("s1", {f"other{number}": number})
    store.save_automatic("s1", Path(sys.argv[2]), mask_record(number=number), {"oneprompt"})
"""
    process = subprocess.Popen([sys.executable, "-c", other, str(folder), label_of(folder)], cwd=ROOT)
    errors = []

    def write(name):
        try:
            for number in range(10):
                store.update_image_info("s1", {f"{name}{number}": number})
                store.save_label("s2", label_of(folder), name, {"number": number})
                store.status(), store.json(), store.records("s1")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait() == 0
    assert not errors
    fresh = StudyStore(str(folder))
    seen = fresh.get_image_info("s1")
    assert {f"{name}{number}" for name in ("one", "two", "other") for number in range(10)} <= seen.keys()
    assert fresh.get_label_info("s1", AUTOMATIC)["params"]["number"] == 9
    assert fresh.records("s2").keys() == {"one", "two"}


def test_the_archive_of_a_list_holds_images_and_labels(folder):
    store = StudyStore(str(folder))
    with pytest.raises(NotFound, match="save one study first"):
        store.get_dataset_archive(None)
    store.save_label("s0", label_of(folder), FINAL, {})
    path = store.get_dataset_archive(None)
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"image/s0.nii.gz", "label/s0.nii.gz", "metadata.json"}
    Path(path).unlink()


def test_the_training_list_pairs_images_with_final_labels(folder):
    store = StudyStore(str(folder))
    store.save_label("s2", label_of(folder), FINAL, {})
    store.save_automatic("s1", Path(label_of(folder)), mask_record(), MODELS)
    assert [Path(pair["image"]).name for pair in store.datalist()] == ["s2.nii.gz"]
    assert store.status() == {"total": 3, "completed": 1, "label_tags": {FINAL: 1, AUTOMATIC: 1}}
    assert np.array_equal(sorted(store.get_unlabeled_images()), ["s0", "s1"])


def test_a_label_that_another_person_replaces_is_kept(folder, tmp_path):
    store, mask = StudyStore(str(folder)), organ_volume(0)[1]
    for number, user in enumerate(("anna", "anna", "bert", "bert")):
        file = write_nifti(tmp_path / f"label{number}.nii.gz", np.roll(mask, number, axis=0))
        store.save_label("s0", str(file), FINAL, {"user": user})
    assert store.get_label_info("s0", FINAL)["user"] == "bert"
    former = store.label("s0", "former")
    assert former.record.to_json()["user"] == "anna"  # whose last word this was
    np.testing.assert_array_equal(read_label(former.path), np.roll(mask, 1, axis=0))


def test_automatic_masks_are_removed_where_nobody_judged_them(folder):
    store, file = StudyStore(str(folder)), Path(label_of(folder))
    for image_id, model in (("s0", "oneprompt"), ("s1", "another"), ("s2", "oneprompt")):
        store.save_automatic(image_id, file, mask_record(model), {model})
    store.save_label("s2", str(file), FINAL, {})
    assert store.remove_automatic({"oneprompt"}) == ["s0"]
    assert [set(store.records(f"s{number}")) for number in range(3)] == [set(), {AUTOMATIC}, {AUTOMATIC, FINAL}]
    assert not list((folder / "labels" / AUTOMATIC).glob("s0*"))
