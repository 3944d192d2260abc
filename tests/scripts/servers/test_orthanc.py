import pytest

import scripts.servers.orthanc
from scripts.servers.orthanc import DicomServerError, find_orthanc, load_folder


def test_without_orthanc_the_message_has_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(scripts.servers.orthanc, "_PLUGIN_FOLDERS", ())
    with pytest.raises(
        DicomServerError, match=r"libOrthancDicomWeb\.so not found.*apt-get install orthanc orthanc-dicomweb"
    ):
        find_orthanc()


def test_a_folder_without_dicom_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("DICM")
    with pytest.raises(DicomServerError, match="must hold DICOM files"):
        load_folder("http://127.0.0.1:9", tmp_path)
