"""A study folder with everything in it that a folder can hold: the rest of the list goes on."""

import json
import os
import random

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from infers.label_records import FINAL
from infers.store.datastore import StudyStore
from lib.imaging.images import read_image
from scripts.phantoms.dicom_series import write_series
from tests.samples import organ_volume, write_nifti

# pydicom warns of what breaks the standard, which is what is tested here
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def folder(tmp_path):
    """A study folder with a volume, and a label file beside it."""
    studies = tmp_path / "studies"
    studies.mkdir()
    write_nifti(studies / "s0.nii.gz", organ_volume(0)[0])
    write_nifti(tmp_path / "label.nii.gz", organ_volume(0)[1])
    return studies


def dicom(folder, uid="1.2.3"):
    array = np.random.default_rng(0).integers(0, 99, (6, 5, 3)).astype(np.int16)
    write_series(folder, array, AFFINE, uid=uid, patient="P", modality="MR")
    return sorted(folder.iterdir())


def label_of(folder):
    return str(folder.parent / "label.nii.gz")


@pytest.mark.parametrize("seed", range(2))
def test_no_mutation_of_a_dicom_header_stops_the_list(folder, seed):
    chance = random.Random(seed)
    originals = [path.read_bytes() for path in dicom(folder.parent / "source")]
    for number in range(60):
        content = bytearray(originals[number % 3])
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(128, min(len(content), 1400))] = chance.randrange(256)
        place = folder / f"case{number}"
        place.mkdir()
        (place / "a.dcm").write_bytes(content[: chance.choice([None, chance.randrange(len(content))])])
    store = StudyStore(str(folder))
    assert "s0" in store.list_images()
    store.save_label("s0", label_of(folder), FINAL, {})
    assert StudyStore(str(folder)).get_labeled_images() == ["s0"]


def test_a_damaged_file_is_named_and_its_neighbours_are_listed(folder):
    dicom(folder / "whole")
    (folder / "broken").mkdir()
    (folder / "broken" / "a.dcm").write_bytes(b"no DICOM")
    store = StudyStore(str(folder))
    assert set(store.list_images()) == {"s0", "1.2.3"}
    assert "cannot be read as DICOM" in store.unreadable()["broken/a.dcm"]
    (folder / "broken" / "a.dcm").unlink()
    store.refresh()
    assert store.unreadable() == {}


def test_a_series_number_that_is_none_is_named_after_its_folder(folder):
    for name, uid in (("long", "1." * 150 + "1"), ("ü" * 90, "x/../y")):
        for path in dicom(folder / name, "1.2.3"):
            header = pydicom.dcmread(path)
            header.SeriesInstanceUID = uid
            header.save_as(path)
    store = StudyStore(str(folder))
    assert set(store.list_images()) == {"s0", "long", "ü" * 32}
    for name in store.list_images():
        assert os.path.exists(store.get_image_uri(name))


def test_pipes_and_links_to_nowhere_are_left_out_and_wait_for_nobody(folder):
    (folder / "series").mkdir()
    os.mkfifo(folder / "series" / "a.dcm")
    os.mkfifo(folder / "image.nii.gz")
    (folder / "gone.nii.gz").symlink_to("nowhere")
    os.mkfifo(folder / "series" / "nameless")
    store = StudyStore(str(folder))
    assert store.list_images() == ["s0"]
    assert {name for name, reason in store.unreadable().items() if "no plain file" in reason} == {
        "series/a.dcm", "image.nii.gz"
    }  # fmt: skip
    assert "a link to nothing" in store.unreadable()["gone.nii.gz"]


def test_names_of_any_bytes_are_left_out_and_told(folder):
    name = b"caf\xe9"  # Latin-1
    os.mkdir(os.path.join(os.fsencode(folder), name))
    for path in (name + b".nii.gz", b"line\nbreak.nii.gz", name + b"/a.dcm", b"labels/" + name):
        whole = os.path.join(os.fsencode(folder), path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write((folder / "s0.nii.gz").read_bytes())
    (folder / ("x" * 248 + ".nii.gz")).write_bytes((folder / "s0.nii.gz").read_bytes())
    os.makedirs(os.path.join(os.fsencode(folder), b"labels", b"tag\xe9"))
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {})
    assert StudyStore(str(folder)).get_labeled_images() == ["s0"]
    assert store.list_images() == ["s0"]
    assert {"caf\\xe9.nii.gz", "caf\\xe9", "labels/tag\\xe9", "line\nbreak.nii.gz"} <= set(
        name.replace("\\udce9", "\\xe9") for name in store.unreadable()
    )
    assert any("rename it" in reason for name, reason in store.unreadable().items() if name.startswith("xxx"))


def test_every_name_that_is_listed_can_be_labelled(folder):
    for name in ("ü" * 100, "x" * 200, "名" * 66):  # up to 200 bytes
        write_nifti(folder / f"{name}.nii.gz", organ_volume(1)[0])
    store = StudyStore(str(folder))
    assert len(store.list_images()) == 4
    for name in store.list_images():
        store.save_label(name, label_of(folder), FINAL, {"note": name})
    assert StudyStore(str(folder)).unreadable() == {}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b'{"records": 7}', b'{"records": [7]}'])
def test_a_broken_record_is_ignored_and_told_and_the_label_stays(folder, content):
    StudyStore(str(folder)).save_label("s0", label_of(folder), FINAL, {"user": "ann"})
    (folder / "labels" / "final" / "s0.oneprompt.json").write_bytes(content)
    (folder / "datastore_v2.json").unlink()
    store = StudyStore(str(folder))
    assert store.get_labeled_images() == ["s0"]
    assert "no readable record" in store.unreadable()["labels/final/s0.oneprompt.json"]
    store.save_label("s0", label_of(folder), FINAL, {"user": "bob"})
    store.refresh()
    assert store.unreadable() == {}


def index_of(name, info):
    image = f'{{"image": {{"info": {info}, "ext": ".nii.gz"}}}}'
    return f'{{"name": "n", "description": "", "objects": {{"{name}": {image}}}}}'


@pytest.mark.parametrize("index", [
    "[" * 100_000, index_of("s0", '{"a":' * 300 + "1" + "}" * 300), index_of("../../x", "{}"),
    index_of("s0", '{"odd": "\\ud800", "n": NaN}'),
    '{"images_dir": "/etc", "labels_dir": "/tmp", "objects": {}, "name": "n", "description": "d"}',
])  # fmt: skip
def test_no_index_keeps_the_list_from_its_files(folder, index):
    (folder / "datastore_v2.json").write_text(index)
    store = StudyStore(str(folder))
    assert store.list_images() == ["s0"]
    store.save_label("s0", label_of(folder), FINAL, {"user": "ann"})
    again = StudyStore(str(folder))
    assert again.get_label_info("s0", FINAL)["user"] == "ann"
    assert again.label("s0", FINAL).path.is_relative_to(folder)


def test_whatever_is_recorded_the_next_save_and_the_next_start_succeed(folder):
    deep = {}
    for _ in range(300):
        deep = {"a": deep}
    store = StudyStore(str(folder))
    store.save_label("s0", label_of(folder), FINAL, {"user": "ann", "deep": deep, "half": "\ud800", "n": float("inf")})
    store.update_label_info("s0", FINAL, {"deep": deep})
    store.update_image_info("s0", {"half": "\ud800"})
    store.save_label("s0", label_of(folder), "other", {})
    again = StudyStore(str(folder))
    assert set(again.records("s0")) == {FINAL, "other"}
    assert again.get_label_info("s0", FINAL)["user"] == "ann"


def test_what_could_not_be_written_is_not_remembered_either(folder, monkeypatch):
    store = StudyStore(str(folder))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("infers.store.presence.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        store.update_image_info("s0", {"seen": True})
    monkeypatch.undo()
    assert "seen" not in store.get_image_info("s0")
    store.save_label("s0", label_of(folder), FINAL, {})
    assert "seen" not in json.loads((folder / "datastore_v2.json").read_text())["objects"]["s0"]["image"]["info"]


def test_dicom_without_a_preamble_is_listed_and_other_bytes_are_told_what_they_lack(folder):
    for path in dicom(folder / "old"):
        dataset = pydicom.dcmread(path)
        plain = DicomBytesIO()
        plain.is_little_endian, plain.is_implicit_VR = True, True
        write_dataset(plain, dataset)
        path.write_bytes(plain.getvalue())
    (folder / "old" / "x.dcm").write_bytes(bytes(range(256)) * 20)
    store = StudyStore(str(folder))
    assert set(store.list_images()) == {"s0", "1.2.3"}
    assert "does not begin as DICOM" in store.unreadable()["old/x.dcm"]
    assert read_image(store.get_image_uri("1.2.3")).array.shape == (6, 5, 3)
