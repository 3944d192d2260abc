import os

import pytest
import requests

from infers.operations.checks import CHECKS, Finding, Subject, dicomweb, findings_of, permissions, weights
from infers.settings import AppConfig
from scripts import doctor
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def folder(tmp_path):
    """A study folder."""
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def subject(folder, tmp_path, **settings):
    return Subject(str(folder), tmp_path, AppConfig(**settings))


def problems(findings):
    return {finding.about: finding for finding in findings if finding.kind == "problem"}


def test_weights_are_loaded_as_the_server_would(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    assert problems(weights(subject(folder, tmp_path, weights=tmp_path / "w.safetensors")))
    assert not problems(weights(subject(folder, tmp_path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_a_problem(folder, tmp_path):
    folder.chmod(0o500)
    try:
        assert "chown" in problems(permissions(subject(folder, tmp_path)))["study folder"].remedy
    finally:
        folder.chmod(0o700)


def test_a_dicomweb_server_that_is_away_is_told(tmp_path, monkeypatch):
    def away(*args, **options):
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(requests, "get", away)
    assert "cannot be reached" in problems(dicomweb(subject("http://127.0.0.1:9/dicom-web", tmp_path)))["DICOMweb"].text


def test_the_command_tells_of_everything_around_the_folder_with_its_remedy(folder, tmp_path, capsys):
    write_nifti(folder / "s0.nii.gz", organ_volume(0)[0])
    assert doctor.main([str(folder)]) == 0
    assert {"weights:", "packages:", "study"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line
    }
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    assert doctor.main([str(folder), "--conf", "weights", str(tmp_path / "w.safetensors")]) == 1
    assert "-> leave --conf weights out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        doctor.main([str(folder), "--conf", "lables", "x"])


def test_a_check_that_dies_is_a_finding_and_the_others_go_on(folder, tmp_path):
    def dies(subject):
        yield Finding("ok", "before", "fine")
        raise RecursionError("too deep")

    found = findings_of(dies, subject(folder, tmp_path))
    assert [finding.kind for finding in found] == ["ok", "problem"]
    assert "RecursionError" in found[1].text
    assert len(CHECKS) >= 4
