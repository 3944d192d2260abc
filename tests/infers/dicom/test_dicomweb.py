import contextlib
import copy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from monailabel.config import settings
from pydicom.errors import InvalidDicomError

from infers.dicom.dicomseg import Maker, write_seg
from infers.dicom.dicomweb import DICOMwebStore, open_dicomweb
from infers.errors import dicomweb_problem
from infers.jobs.propagation import Propagation
from infers.label_records import AS_RESULT, AUTOMATIC, FINAL, LabelRecord, Statement
from infers.names import LabelMap
from infers.serving.priority_lock import PriorityLock
from infers.store.datastore import StudyStore
from infers.study_list.descriptors import Descriptors
from infers.study_list.studies import MODELS, Studies
from infers.use_cases.inference import Inference
from lib.imaging.images import ImageError, read_image, read_label, write_label
from scripts.phantoms.dicom_series import write_series
from tests.infers.fakes import FakePredictor, mask_record, wait_until

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SERIES = ("1.2.3.1", "1.2.3.2")


class FakeServer:
    """A DICOMweb client whose server lives in memory, and which counts how often it is asked."""

    base_url = "http://pacs.example/dicom-web"

    def __init__(self, folder):
        self.instances, self.segs, self.searches, self.metadata, self.full = {}, {}, 0, 0, False
        self.retrieved = []
        for seed, uid in enumerate(SERIES):
            array = np.random.default_rng(seed).integers(0, 99, (6, 5, 4)).astype(np.int16)
            write_series(folder / uid, array, AFFINE, uid=uid, patient=f"P{seed}", modality="MR")
            self.instances[uid] = [pydicom.dcmread(path) for path in sorted((folder / uid).iterdir())]

    def search_for_series(self, search_filters=None):
        self.searches += 1
        wanted = search_filters or {}
        if wanted.get("Modality") == "SEG":
            return [self._entry(uid, "SEG") for uid in self.segs]
        found = [self._entry(uid, "MR") for uid in self.instances] + [self._entry("1.2.3.7", "SR")]
        return [e for e in found if wanted.get("SeriesInstanceUID") in (None, e["0020000E"]["Value"][0])]

    def retrieve_series(self, study, series, media_types=None):
        self.retrieved.append(series)
        if isinstance(self.instances.get(series), Exception):
            raise self.instances[series]
        return [self.segs[series]] if series in self.segs else self.instances[series]

    def retrieve_series_metadata(self, study, series):
        self.metadata += 1
        header = pydicom.Dataset()
        header.update({element.tag: element for element in self.segs[series] if element.tag != 0x7FE00010})
        return [header.to_json_dict()]

    def store_instances(self, datasets):
        if self.full:
            raise requests.HTTPError("507 Insufficient Storage")
        for dataset in datasets:
            self.segs[str(dataset.SeriesInstanceUID)] = dataset

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
    assert store.save_automatic(SERIES[0], mask_for(store, SERIES[0], tmp_path), mask_record(n=1), MODELS)
    again = DICOMwebStore(server, tmp_path / "state")
    assert again.get_label_info(SERIES[0], AUTOMATIC)["params"]["n"] == 1
    assert again.records(SERIES[0]).keys() == {AUTOMATIC}
    assert again.records(SERIES[1]) == {}


def stored_by_another(store, server, uid, mask, name="organ", by=Maker.MANUAL, content_time="235959"):
    """Somebody else's viewer stores a segmentation on the server."""
    image = read_image(store.get_image_uri(uid))
    seg = write_seg(server.instances[uid], image, mask, {name: 1}, by=by)
    seg.Manufacturer, seg.ContentDate, seg.ContentTime = "Another", "20991231", content_time
    server.store_instances([seg])
    store.forget()
    return image


def test_a_saved_final_label_is_on_the_server_as_dicom_seg_and_counted_at_once(store, server, tmp_path):
    label = mask_for(store, SERIES[0], tmp_path)
    assert store.get_unlabeled_images() == list(SERIES)
    store.save_label(SERIES[0], str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    (seg,) = server.segs.values()
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES[0]
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["organ"]
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert store.get_labeled_images() == [SERIES[0]]
    assert store.get_unlabeled_images() == [SERIES[1]]
    assert store.get_label_info(SERIES[0], FINAL)["label_info"][0]["name"] == "organ"  # it is not fetched back
    assert store.get_label_uri(SERIES[0], FINAL) == str(store.label(SERIES[0], FINAL).path)
    assert store.save_automatic(SERIES[0], label, mask_record(), MODELS) is False


def test_a_label_that_began_as_an_automatic_mask_says_so_with_what_made_it(store, server, tmp_path):
    label = mask_for(store, SERIES[0], tmp_path)
    store.save_automatic(SERIES[0], label, mask_record(weights="abc", latencies=3), MODELS)
    store.save_label(SERIES[0], str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    (segment,) = next(iter(server.segs.values())).SegmentSequence
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
    parameters = str(segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    assert "weights=abc" in parameters
    assert "latencies" not in parameters


def test_a_label_that_the_server_does_not_take_is_kept_here_with_the_reason(store, server, tmp_path):
    server.full = True
    label = mask_for(store, SERIES[0], tmp_path)
    store.save_label(SERIES[0], str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    assert store.get_labeled_images() == [SERIES[0]]
    assert "507" in store.get_label_info(SERIES[0], FINAL)["dicom_seg_problem"]


def test_a_segmentation_that_another_viewer_stored_is_a_final_label(store, server):
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[1:4, 2:5, 1:3] = 1
    image = stored_by_another(store, server, SERIES[1], mask, "Tumour")
    assert store.get_labeled_images() == [SERIES[1]]
    assert store.records(SERIES[1]).keys() == {FINAL}  # which keeps the job away
    record = store.label(SERIES[1], FINAL)
    assert record.record.to_json()["label_names"] == {"Tumour": 1}
    np.testing.assert_array_equal(read_label(record.path, image), mask)
    assert store.datalist()[0]["label"] == str(record.path)


def test_what_is_known_of_one_series_is_told_without_a_look_at_all_others(store, server, tmp_path, monkeypatch):
    store.save_automatic(SERIES[0], mask_for(store, SERIES[0], tmp_path), mask_record(), MODELS)
    stored_by_another(store, server, SERIES[0], mask=read_image(store.get_image_uri(SERIES[0])).array > 50)
    store.forget()
    monkeypatch.setattr(store, "get_labeled_images", lambda *rest: pytest.fail("it went through the whole list"))
    assert store.records(SERIES[0]).keys() == {AUTOMATIC, FINAL}
    assert store.records(SERIES[1]) == {}


def test_the_newest_segmentation_replaces_the_label_and_a_later_label_replaces_it(store, server, tmp_path):
    first, second = np.zeros((2, 6, 5, 4), np.uint8)
    first[1, 1, 1], second[2:5, 2, 2] = 1, 1
    image = stored_by_another(store, server, SERIES[0], first, content_time="100000")
    assert store.label(SERIES[0], FINAL) is not None
    stored_by_another(store, server, SERIES[0], second, content_time="110000")
    np.testing.assert_array_equal(read_label(store.label(SERIES[0], FINAL).path, image), second)
    label = mask_for(store, SERIES[0], tmp_path)
    store.save_label(SERIES[0], str(label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    assert store.get_label_info(SERIES[0], FINAL)["label_info"][0]["name"] == "organ"


def test_an_accepted_result_replaces_no_label_that_came_meanwhile(store, server, tmp_path):
    label = mask_for(store, SERIES[0], tmp_path)
    info = LabelRecord(Statement(label_names={"organ": 1}), accepted=AS_RESULT)
    assert store.save_accepted(SERIES[0], label, info, over=None)
    seen = store.label(SERIES[0], FINAL)
    assert store.save_accepted(SERIES[0], label, info, over=None) is False
    assert store.save_accepted(SERIES[0], label, info, over=seen)
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[1:4, 2:5, 1:3] = 1
    image = read_image(store.get_image_uri(SERIES[0]))
    store.get_labeled_images()  # what the server has is remembered for a while
    seg = write_seg(server.instances[SERIES[0]], image, mask, {"organ": 1}, by=Maker.MANUAL)
    seg.ContentDate = "20991231"
    server.store_instances([seg])
    assert store.save_accepted(SERIES[0], label, info, over=seen) is False
    record = store.label(SERIES[0], FINAL)
    np.testing.assert_array_equal(read_label(record.path, image), mask)
    store.save_label(SERIES[0], str(record.path), FINAL, {"label_names": {"organ": 1}})
    assert store.save_accepted(SERIES[0], label, info, over=seen) is False


def test_automatic_masks_in_the_archive_are_no_final_labels(store, server):
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8), by=Maker.AUTOMATIC)
    assert store.get_labeled_images() == []


@pytest.mark.parametrize("uid", ["../../out", "/etc/cron.d", "", None, ".hidden", "a\\b", 7])
def test_a_series_whose_uid_is_no_name_is_left_out_of_images_and_segmentations(store, server, monkeypatch, uid):
    search = server.search_for_series
    odd = {"0020000E": {"vr": "UI", "Value": [uid]}} if uid is not None else {}

    def with_odd_ones(search_filters=None):
        return [odd, *search(search_filters), {**odd, "00080060": {"vr": "CS", "Value": ["MR"]}}, 3, {"x": 1}]

    monkeypatch.setattr(server, "search_for_series", with_odd_ones)
    assert store.list_images() == list(SERIES)
    assert store.get_labeled_images() == []


def test_a_segmentation_that_cannot_be_read_is_left_out_and_the_rest_goes_on(store, server):
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    stored_by_another(store, server, SERIES[1], np.ones((6, 5, 4), np.uint8))
    broken = next(iter(server.segs.values()))
    del broken.PixelData
    assert store.label(SERIES[0], FINAL) is None
    assert store.get_labeled_images() == [SERIES[1]]
    assert store.label(SERIES[1], FINAL) is not None


def test_each_segmentation_is_asked_for_its_headers_once(store, server):
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    for _ in range(3):
        store.forget()
        store.get_labeled_images()
    assert server.metadata == 1


def test_listeners_hear_of_what_others_store(store, server, monkeypatch):
    monkeypatch.setattr("infers.dicom.dicomweb.LOOK_AGAIN", 0.05)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", 0)
    heard, searches = threading.Event(), server.searches
    store.on_change(heard.set)
    wait_until(lambda: server.searches > searches + 10)  # it has looked several times
    assert not heard.is_set()
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    assert heard.wait(120)


def test_automatic_masks_are_undone_and_final_labels_and_the_server_are_not_touched(store, server, tmp_path):
    for series in SERIES[:2]:
        store.save_automatic(series, mask_for(store, series, tmp_path), mask_record(), MODELS)
    info = {"label_info": [{"name": "organ", "idx": 1}]}
    store.save_label(SERIES[1], str(mask_for(store, SERIES[1], tmp_path)), FINAL, info)
    stored = dict(server.segs)
    assert store.remove_automatic(MODELS) == [SERIES[0]]
    assert AUTOMATIC not in store.records(SERIES[0])
    assert store.records(SERIES[1]).keys() == {AUTOMATIC, FINAL}
    assert server.segs == stored


def test_a_series_is_fetched_once_and_whole(store, server):
    for _ in range(2):
        store.get_image_uri(SERIES[0])
    assert server.retrieved == [SERIES[0]]
    folder = Path(store.get_image_uri(SERIES[0])).parent / SERIES[0]
    assert len(list(folder.iterdir())) == 4
    assert not list(folder.parent.parent.rglob(".fetching-*"))


def test_a_series_with_uneven_slices_is_opened_and_says_so(store, server):
    del server.instances[SERIES[0]][1]
    image = read_image(store.get_image_uri(SERIES[0]))
    assert image.array.shape == (6, 5, 3)
    assert "missing or uneven slices" in store.get_image_info(SERIES[0])["note"]
    mask = image.array > 50
    assert stored_by_another(store, server, SERIES[0], mask)
    record = store.label(SERIES[0], FINAL)
    np.testing.assert_array_equal(read_label(record.path, image), mask)


def without_pixels(instances):
    for instance in instances:
        del instance.PixelData
    return instances


BAD_SERIES = {
    "an empty series": (lambda instances: [], "is empty on the DICOMweb server: store its images there"),
    "no pixel data": (without_pixels, "no pixel data.*choose a series with images"),
    "a corrupt instance": (
        lambda instances: InvalidDicomError("not DICOM"),
        "cannot be read.*store the series there again",
    ),
    "two images at one place": (lambda instances: [*instances, copied(instances[0])], "where another one lies.*split"),
}


def copied(instance):
    other = copy.deepcopy(instance)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
    return other


@pytest.mark.parametrize("bad", BAD_SERIES)
def test_a_series_that_is_no_image_says_why_and_is_asked_for_again_later(store, server, bad):
    good = copy.deepcopy(server.instances[SERIES[0]])
    spoil, reason = BAD_SERIES[bad]
    server.instances[SERIES[0]] = spoil(server.instances[SERIES[0]])
    with pytest.raises(ImageError, match=rf"{SERIES[0]}.*{reason}"):
        store.get_image_uri(SERIES[0])
    assert read_image(store.get_image_uri(SERIES[1])).array.shape == (6, 5, 4)
    server.instances[SERIES[0]] = good
    assert read_image(store.get_image_uri(SERIES[0])).array.shape == (6, 5, 4)


def studies_of(store):
    looks = Descriptors(store, store.state / "looks.npz")
    return Studies(store, LabelMap(store.state / "labels.json"), FakePredictor, 4, looks)


def test_the_job_goes_on_past_a_bad_series_and_names_it(store, server, tmp_path):
    entries = [*SERIES, "1.2.3.3"]
    server.instances["1.2.3.3"] = copy.deepcopy(server.instances[SERIES[1]])
    for number, instance in enumerate(server.instances["1.2.3.3"]):
        instance.SeriesInstanceUID, instance.SOPInstanceUID = "1.2.3.3", f"1.2.3.3.{number}"
    server.instances[SERIES[1]] = without_pixels(server.instances[SERIES[1]])
    store.save_label(SERIES[0], str(mask_for(store, SERIES[0], tmp_path)), FINAL, {"label_names": {"organ": 1}})
    job = Propagation(studies_of(store), PriorityLock(), store.state)
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "done")
    assert "no pixel data" in job.status().failed[SERIES[1]]
    assert job.status().done == 1
    assert store.label(entries[2], AUTOMATIC) is not None


def test_the_job_stops_while_the_server_is_away_and_goes_on_when_it_is_back(store, server, tmp_path):
    store.save_label(SERIES[0], str(mask_for(store, SERIES[0], tmp_path)), FINAL, {"label_names": {"organ": 1}})
    good, server.instances[SERIES[1]] = server.instances[SERIES[1]], requests.ConnectionError("refused")
    job = Propagation(studies_of(store), PriorityLock(), store.state)
    job.start()
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "cannot be reached: see that it runs" in job.status().failed[""]
    server.instances[SERIES[1]] = good
    job.trigger(resume=False)  # as the store's listeners do
    wait_until(lambda: job.status().state == "done")
    assert store.label(SERIES[1], AUTOMATIC) is not None


def test_a_segmentation_of_a_series_that_is_not_there_is_left_out_and_said_once(store, server, caplog):
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    seg = next(iter(server.segs.values()))
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.9"
    for _ in range(2):
        store.forget()
        assert store.get_labeled_images() == []
    assert [record.message for record in caplog.records].count(
        f"the segmentation {seg.SeriesInstanceUID} refers to series 1.2.9, which is not on the DICOMweb server: it is "
        "left out until that series is stored there too"
    ) == 1


def test_a_segmentation_that_was_drawn_on_another_series_is_left_out_with_the_reason(store, server):
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    for frame in next(iter(server.segs.values())).PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient = [900, 900, 900]
    assert store.label(SERIES[0], FINAL) is None
    assert "drawn on another series" in store.problems()[SERIES[0]]
    assert store.get_labeled_images() == []


def test_a_segmentation_of_a_series_that_cannot_be_read_stops_nothing(store, server):
    stored_by_another(store, server, SERIES[1], np.ones((6, 5, 4), np.uint8))
    stored_by_another(store, server, SERIES[0], np.ones((6, 5, 4), np.uint8))
    again = DICOMwebStore(server, store.state.parent.parent / "fresh")
    server.instances[SERIES[0]] = without_pixels(server.instances[SERIES[0]])
    assert again.label(SERIES[0], FINAL) is None
    assert "no pixel data" in again.problems()[SERIES[0]]
    assert again.label(SERIES[1], FINAL) is not None


def test_listeners_hear_when_the_server_is_back(store, server, monkeypatch):
    monkeypatch.setattr("infers.dicom.dicomweb.LOOK_AGAIN", 0.05)
    heard, answer, refused = threading.Event(), server.search_for_series, []

    def refuse(**options):
        refused.append(options)
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(server, "search_for_series", refuse)
    store.on_change(heard.set)
    wait_until(lambda: len(refused) > 2)
    assert not heard.is_set()
    monkeypatch.setattr(server, "search_for_series", answer)
    store.forget()
    assert heard.wait(120)


class Slow(BaseHTTPRequestHandler):
    """A DICOMweb server that takes its time, or refuses; notes the passwords that it is told."""

    def do_GET(self):
        self.server.told.append(self.headers.get("authorization"))
        self.server.go_on.wait(self.server.delay)
        with contextlib.suppress(OSError):  # who asked has gone
            self.send_response(self.server.status)
            self.send_header("content-type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(b"[]")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def pacs(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.delay, server.status, server.told, server.go_on = 0, 200, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", server.url)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def problem(url, folder):
    with pytest.raises(requests.RequestException) as caught:
        open_dicomweb(url, folder).list_images()
    return dicomweb_problem(caught.value)


def test_a_slow_server_is_not_waited_for_longer_than_configured(pacs, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT", 0.2)
    pacs.delay = None  # no answer comes at all
    assert "within 0.2 seconds" in (told := problem(pacs.url, tmp_path))
    assert "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT" in told


def test_wrong_credentials_say_what_to_set(pacs, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "reader")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "wrong")
    pacs.status = 401
    assert "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD" in problem(pacs.url, tmp_path)
    assert pacs.told == [requests.auth._basic_auth_str("reader", "wrong")]


def test_a_server_that_is_away_does_not_keep_this_one_from_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "http://127.0.0.1:9/dicom-web")
    assert "cannot be reached: see that it runs, or correct --studies" in problem(
        "http://127.0.0.1:9/dicom-web", tmp_path
    )


@pytest.mark.parametrize(("status", "hint"), [(404, "not its DICOMweb root"), (500, "does not answer as it should")])
def test_other_refusals_name_the_server(pacs, tmp_path, status, hint):
    pacs.status = status
    assert hint in (told := problem(pacs.url, tmp_path))
    assert pacs.url in told


def refuse(*arguments, **options):
    raise requests.ConnectionError("away")


def test_a_label_that_the_server_did_not_take_is_told_and_sent_again(store, server, tmp_path):
    server.full = True
    store.save_label(SERIES[0], str(mask_for(store, SERIES[0], tmp_path)), FINAL, {"label_names": {"organ": 1}})
    assert "507" in store.problems()[SERIES[0]]
    assert not store.store_again()
    server.full = False
    assert not store.store_again()  # not at once: the first try just failed
    store._waits.clear()
    assert store.store_again() == {SERIES[0]}
    assert store.problems() == {}
    assert len(server.segs) == 1
    record = StudyStore.label(store, SERIES[0], FINAL).record
    assert record.dicom_seg_problem is None
    assert record.dicom_seg_seen == tuple(server.segs)
    assert not store.store_again()


def test_what_waits_for_the_server_is_sent_by_the_next_process(store, server, tmp_path):
    server.full = True
    store.save_label(SERIES[0], str(mask_for(store, SERIES[0], tmp_path)), FINAL, {"label_names": {"organ": 1}})
    server.full = False
    assert DICOMwebStore(server, tmp_path / "state").store_again() == {SERIES[0]}


def test_a_label_is_saved_while_the_server_is_away(store, server, tmp_path, monkeypatch):
    mask = mask_for(store, SERIES[0], tmp_path)
    with monkeypatch.context() as away:
        away.setattr(server, "search_for_series", refuse)
        away.setattr(server, "store_instances", refuse)
        store.save_label(SERIES[0], str(mask), FINAL, {"label_names": {"organ": 1}})
    assert SERIES[0] in store.problems()
    assert store.store_again() == {SERIES[0]}


def test_a_de_identified_series_gets_its_segmentation(store, server, tmp_path):
    for instance in server.instances[SERIES[0]]:
        del instance.PatientBirthDate
    store.save_label(SERIES[0], str(mask_for(store, SERIES[0], tmp_path)), FINAL, {"label_names": {"organ": 1}})
    (seg,) = server.segs.values()
    assert seg.PatientBirthDate is None or seg.PatientBirthDate == ""
    assert store.problems() == {}


def test_another_volume_of_a_series_is_answered_on_its_own_voxels(store, server, tmp_path):
    first = server.instances[SERIES[0]]
    second = copy.deepcopy(first)
    for k, instance in enumerate(second):
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{k}"
        instance.AcquisitionNumber, instance.PixelData = 2, (instance.pixel_array + 7).tobytes()
    server.instances[SERIES[0]] = [*first, *second]
    volumes = {}

    def task(request):
        volumes[request["frame"]] = read_image(request["image"], request["frame"]).array
        return str(tmp_path / "mask.nii.gz"), {}

    studies = Studies(
        store, LabelMap(tmp_path / "labels.json"), FakePredictor, 4, Descriptors(store, tmp_path / "d.npz")
    )
    for frame in (0, 1):
        Inference(studies, {"oneprompt": task}).run({"model": "oneprompt", "image": SERIES[0], "frame": frame})
    np.testing.assert_array_equal(volumes[0] + 7, volumes[1])
    assert "shows every place 2 times" in store.get_image_info(SERIES[0])["note"]
