import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from scripts.ohif import first_study, main, ohif_address, parse_arguments
from scripts.servers.orthanc import DicomServerError


class Pacs(BaseHTTPRequestHandler):
    """A DICOMweb server's search; `server.studies` is {modality: [(patient, study)]}."""

    def do_GET(self):
        modality = parse_qs(urlsplit(self.path).query)["ModalitiesInStudy"][0]
        self.send_response(self.server.status)
        self.end_headers()
        found = [{"00100020": {"Value": [patient]}, "0020000D": {"Value": [study]}}
                 for patient, study in self.server.studies.get(modality, [])]  # fmt: skip
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def pacs():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pacs)
    server.studies, server.status = {}, 200
    server.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_study_is_the_first_patients_with_a_modality_that_ohif_shows(pacs):
    pacs.studies = {"CT": [("P2", "1.2"), ("P1", "1.1")], "MR": [("P0", "1.0")]}
    assert first_study(pacs.url) == "1.1"
    pacs.studies.pop("CT")
    assert first_study(pacs.url) == "1.0"


def test_a_server_without_such_a_study_asks_for_one(pacs):
    with pytest.raises(DicomServerError, match="no study with CT or MR"):
        first_study(pacs.url)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "MONAI_LABEL_DICOMWEB_USERNAME"), (404, "--studies needs its root")]
)
def test_a_refusal_says_what_to_set(pacs, status, hint):
    pacs.status = status
    with pytest.raises(DicomServerError, match=hint):
        first_study(pacs.url)


def test_a_server_that_is_not_there_ends_the_command_with_what_to_do(capsys):
    assert main(["--ohif", "--studies", "http://127.0.0.1:9/dicom-web"]) == 1
    assert "start that server, or correct --studies" in capsys.readouterr().err


def test_options_of_the_server_pass_in_their_order():
    words = ["--ohif", "--conf", "labels", "a b", "--studies", "x", "--conf", "device", "cpu", "-p", "9000"]
    options, others = parse_arguments(words)
    assert (options.studies, options.port) == ("x", 9000)
    assert others == ["--conf", "labels", "a b", "--conf", "device", "cpu"]


def test_the_address_opens_the_monai_label_mode():
    assert ohif_address("http://h:1", "1.2") == "http://h:1/ohif/monai-label?StudyInstanceUIDs=1.2"
