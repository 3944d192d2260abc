import numpy as np
import pydicom
import pytest
from monailabel.config import settings

from infers.datastore import AUTOMATIC, FINAL
from infers.dicomweb import DICOMwebStore
from lib.images import read_image, write_label
from scripts.dicom_series import write_series

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SERIES = ("1.2.3.1", "1.2.3.2")


class FakeServer:
    """A DICOMweb client whose server lives in memory, and which counts how often it is asked."""

    base_url = "http://pacs.example/dicom-web"

    def __init__(self, folder):
        self.instances, self.labelled, self.searches = {}, [], 0
        for seed, uid in enumerate(SERIES):
            array = np.random.default_rng(seed).integers(0, 99, (6, 5, 4)).astype(np.int16)
            write_series(folder / uid, array, AFFINE, uid=uid, patient=f"P{seed}", modality="MR")
            self.instances[uid] = [pydicom.dcmread(path) for path in sorted((folder / uid).iterdir())]

    def search_for_series(self, search_filters=None):
        self.searches += 1
        wanted = search_filters or {}
        if wanted.get("Modality") == "SEG":
            return [self._entry(f"{uid}.9", "SEG") for uid in self.labelled]
        found = [self._entry(uid, "MR") for uid in self.instances] + [self._entry("1.2.3.7", "SR")]
        return [e for e in found if wanted.get("SeriesInstanceUID") in (None, e["0020000E"]["Value"][0])]

    def retrieve_series(self, study, series):
        return self.instances[series]

    def retrieve_series_metadata(self, study, series):
        meta = pydicom.Dataset()
        meta.ReferencedSeriesSequence = [pydicom.Dataset()]
        meta.ReferencedSeriesSequence[0].SeriesInstanceUID = series.removesuffix(".9")
        return [meta.to_json_dict()]

    @staticmethod
    def _entry(uid, modality):
        dataset = pydicom.Dataset()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = uid, "1.2", modality
        dataset.PatientID, dataset.StudyDate, dataset.StudyTime = "P", "20240101", "0000"
        return dataset.to_json_dict()


@pytest.fixture
def server(tmp_path):
    return FakeServer(tmp_path / "pacs")


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {})
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", 60)
    return DICOMwebStore(server, tmp_path / "state")


def mask_for(store, uid, tmp_path):
    image = read_image(store.get_image_uri(uid))
    path = tmp_path / f"{uid}-mask.nii.gz"
    write_label(path, (image.array > 50).astype(np.uint8), image)
    return path


def test_series_with_images_are_listed_once_asked_within_the_expiry(store, server):
    assert store.list_images() == list(SERIES)  # and the report (SR) is none
    asked = server.searches
    assert store.list_images() == list(SERIES)
    assert server.searches == asked
    assert store.status() == {"total": 2, "completed": 0, "label_tags": {}}


def test_an_opened_series_lies_in_the_state_folder_with_its_geometry(store, tmp_path):
    path = store.get_image_uri(SERIES[0])
    assert str(path).startswith(str(tmp_path / "state"))
    image = read_image(path)
    assert image.array.shape == (6, 5, 4)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert store.get_image_info(SERIES[0])["PatientID"] == "P"


def test_automatic_masks_and_records_survive_a_restart(store, server, tmp_path):
    assert store.save_automatic(SERIES[0], mask_for(store, SERIES[0], tmp_path), {"model": "oneprompt", "n": 1})
    again = DICOMwebStore(server, tmp_path / "state")
    assert again.record(SERIES[0], AUTOMATIC).info["n"] == 1
    assert again.tags(SERIES[0]).keys() == {AUTOMATIC}
    assert again.tags(SERIES[1]) == {}


def test_a_saved_final_label_is_counted_at_once(store, server, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("monailabel.datastore.dicom.nifti_to_dicom_seg", lambda *a, **k: str(tmp_path / "seg.dcm"))

    def upload(path, client):
        sent.append(path)
        server.labelled.append(SERIES[0])
        return f"{SERIES[0]}.9"

    monkeypatch.setattr("monailabel.datastore.dicom.dicom_web_upload_dcm", upload)
    (tmp_path / "seg.dcm").touch()
    label = mask_for(store, SERIES[0], tmp_path)
    assert store.get_unlabeled_images() == list(SERIES)
    store.save_label(SERIES[0], str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    assert sent
    assert store.get_labeled_images() == [SERIES[0]]
    assert store.get_unlabeled_images() == [SERIES[1]]
    assert store.record(SERIES[0], FINAL).info["label_info"][0]["name"] == "organ"
    assert store.get_label_uri(SERIES[0], FINAL) == str(store.record(SERIES[0], FINAL).path)
    assert store.save_automatic(SERIES[0], label, {"model": "oneprompt"}) is False


def test_a_label_that_only_the_server_has_keeps_the_job_away(store, server):
    server.labelled.append(SERIES[1])
    assert store.get_labeled_images() == [SERIES[1]]
    assert store.tags(SERIES[1]).keys() == {FINAL}
