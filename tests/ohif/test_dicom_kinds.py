"""Every kind of series by way of a real DICOMweb server: opened with the right voxels, or refused with the reason."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from monailabel.config import settings
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from infers.dicom.dicomweb import DICOMwebStore, open_dicomweb
from infers.dicom.pacs_labels import inferred_seg
from infers.label_records import FINAL
from lib.imaging.dicom_seg import read_seg
from lib.imaging.images import ImageError, read_image, read_label, write_label
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.tasks import Channel, Task
from scripts.phantoms.dicom_series import make_uid
from scripts.servers.orthanc import Orthanc, load_folder
from tests import dicom_samples as samples
from tests.dicom_samples import own_uids, remove_image, volume
from tests.lib.segmenters.uniseg.fakes import untrained

pytestmark = pytest.mark.needs("Orthanc")

VOLUME, SLICE = volume(), volume()[:, :, :1]
READ: dict[str, tuple[Callable[[Path], Path], np.ndarray]] = {
    "CT": (lambda folder: samples.write(folder, modality="CT"), VOLUME),
    "MR, oblique": (lambda folder: samples.write(folder, samples.oblique()), VOLUME),
    "MR, sagittal": (lambda folder: samples.write(folder, samples.SAGITTAL), VOLUME),
    "MR, one multi-frame object": (lambda folder: samples.enhanced(folder, samples.oblique()), VOLUME),
    "MR, several multi-frame objects": (
        lambda folder: samples.in_several_files(samples.enhanced(folder, samples.oblique())),
        VOLUME,
    ),
    "CT, tilted gantry": (samples.tilted, VOLUME),
    "MR, a slice missing": (lambda folder: samples.incomplete(folder, 2), np.delete(VOLUME, 2, axis=2)),
    "US, colour": (samples.colour_ultrasound, SLICE // 2),
    "US, cine": (samples.cine, VOLUME),
    "CR": (lambda folder: samples.single(folder, "CR"), SLICE),
    "DX": (lambda folder: samples.single(folder, "DX"), SLICE),
    "MR, RLE": (lambda folder: samples.packed(folder, RLELossless), VOLUME),
    "MR, JPEG lossless": (lambda folder: samples.packed(folder, JPEGLosslessSV1), VOLUME),
    "MR, JPEG 2000": (lambda folder: samples.packed(folder, JPEG2000Lossless), VOLUME),
}
WITHOUT_SEG = {"US, colour", "US, cine", "CR", "DX"}  # they say no place
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no image": (lambda folder: samples.change(samples.write(folder), remove_image), "choose a series with images"),
    "a localizer": (
        lambda folder: samples.change(
            samples.write(folder),
            lambda dataset, k: setattr(dataset, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]) if k > 3 else None,
        ),
        "a localizer",
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DICOMwebStore]:
    """The study list of an Orthanc that holds one series of each kind; two of them are of one study."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, (make, _) in {**READ, **REFUSED}.items():
        own_uids(make(folder / name), name)
    samples.change(
        folder / "MR, oblique", lambda dataset, k: setattr(dataset, "StudyInstanceUID", make_uid("CT", "study"))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Orthanc(tmp_path_factory.mktemp("orthanc"), port) as orthanc, pytest.MonkeyPatch.context() as patch:
        load_folder(orthanc.url, folder)
        patch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {})
        patch.setattr(settings, "MONAI_LABEL_STUDIES", orthanc.dicomweb)
        yield open_dicomweb(orthanc.dicomweb, tmp_path_factory.mktemp("state"))


def test_all_modalities_and_both_series_of_a_study_are_listed(store: DICOMwebStore) -> None:
    assert set(store.list_images()) == {str(make_uid(name)) for name in {**READ, **REFUSED}}


@pytest.mark.parametrize("name", READ)
def test_it_is_opened_with_the_right_voxels(store: DICOMwebStore, name: str) -> None:
    image = read_image(store.get_image_uri(str(make_uid(name))))
    np.testing.assert_allclose(image.array, READ[name][1], atol=1e-4)


@pytest.mark.parametrize("name", READ)
def test_its_final_label_goes_to_the_server_and_comes_back(store: DICOMwebStore, name: str, tmp_path: Path) -> None:
    uid = str(make_uid(name))
    image = read_image(store.get_image_uri(uid))
    label = np.zeros(image.array.shape, np.uint8)
    label[2:5, 3:7], label[7:9, 2:4, -1:] = 1, 2
    write_label(tmp_path / "label.nii.gz", label, image)
    store.save_label(uid, str(tmp_path / "label.nii.gz"), FINAL, {"label_names": {"liver": 1, "spleen": 2}})
    if name in WITHOUT_SEG:
        assert "does not say where its images lie" in store.get_label_info(uid, FINAL)["dicom_seg_problem"]
        return
    elsewhere = open_dicomweb(store.name(), tmp_path / "another machine")
    record = elsewhere.label(uid, FINAL)
    assert record.record.to_json()["label_names"] == {"liver": 1, "spleen": 2}
    np.testing.assert_array_equal(read_label(record.path, image), label)


def test_a_mask_of_uniseg_lands_there_as_dicom_seg_with_its_provenance(store: DICOMwebStore) -> None:
    task = Task("abdomen", ("liver", "spleen"), (Channel("MR"),), (4.0, 2.0, 2.0))
    segmenter = UniSegSegmenter(untrained(1, [task], licence="for tests"))
    client, uid = DICOMwebClient(store.name()), make_uid("CT")
    image = read_image(store.get_image_uri(str(uid)))
    made = segmenter.segment(image, (), {"liver": 1, "spleen": 2})
    series = client.retrieve_series(make_uid("CT", "study"), uid)
    for instance in series:
        instance.filename = None  # it came over the network, and pydicom warns of that when it copies
    seg = inferred_seg(series, image, made.mask, {**made.provenance, "label_names": made.labels})
    client.store_instances([seg])
    (stored,) = client.retrieve_series(seg.StudyInstanceUID, seg.SeriesInstanceUID)
    assert stored.StudyInstanceUID == series[0].StudyInstanceUID
    label, names = read_seg(stored, image)
    assert names == {name: value for name, value in made.labels.items() if (made.mask == value).any()}
    np.testing.assert_array_equal(label, made.mask)
    facts = stored.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    for fact in ("uniseg", segmenter.model.hash, "abdomen", "for tests"):
        assert fact in str(facts)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(store: DICOMwebStore, name: str) -> None:
    with pytest.raises(ImageError, match=REFUSED[name][1]):
        store.get_image_uri(str(make_uid(name)))
