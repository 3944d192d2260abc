import io
import tempfile

import pytest
from fastapi import Request, UploadFile
from monailabel.config import settings

from infers.errors import ClientError
from infers.guards import check_reader, json_object, received, safe_name, stem


@pytest.mark.parametrize("name", ["s0", "1.2.840.1", "Case 7 (left)", "Bögen", "5: Ax T1", "a..b"])
def test_ordinary_names_pass(name):
    assert safe_name("image", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", "a\x00b", "a\nb", "x" * 241])
def test_names_that_could_be_paths_are_refused(name):
    with pytest.raises(ClientError, match="plain name"):
        safe_name("image", name)


def test_form_fields_must_be_objects():
    assert json_object("", "params") == {}
    assert json_object('{"a": 1}', "params") == {"a": 1}
    for text in ("[]", "7", "{", "null"):
        with pytest.raises(ClientError, match="JSON object"):
            json_object(text, "params")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("A.NRRD", ".nrrd"),
        ("x.seg.nrrd", ".seg.nrrd"),
        ("../../a.png", ".png"),
        ("a.b/../x", ""),
    ],
)
def test_of_an_uploads_name_only_the_suffix_is_used(name, suffix):
    with received(UploadFile(io.BytesIO(b"content"), filename=name)) as path:
        assert path.read_bytes() == b"content"
        assert path.name == f"upload{suffix}"
        assert [path] == list(path.parent.iterdir())
        assert path.parent.name.startswith("oneprompt-")
        assert path.parent.stat().st_mode & 0o077 == 0  # for nobody else on this machine
    assert not path.parent.exists()


class Torn(io.BytesIO):
    def read(self, *size):
        raise OSError("disk full")


def test_an_upload_that_is_refused_or_torn_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ClientError), received(UploadFile(io.BytesIO(b"content"), filename="a.nii.gz")):
        raise ClientError("refused")
    with pytest.raises(OSError, match="disk full"), received(UploadFile(Torn(), filename="a.nii.gz")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_for_whoever_sits_at_the_server(monkeypatch):
    def asked_from(host):
        return Request({"type": "http", "client": (host, 1)})

    for host in ("127.0.0.1", "::1"):
        check_reader(asked_from(host))
    with pytest.raises(ClientError) as refused:
        check_reader(asked_from("10.0.0.9"))
    assert refused.value.status == 403
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)  # then the route asks for the admin's role
    check_reader(asked_from("10.0.0.9"))


def test_an_uploads_name_without_its_suffix_is_its_id():
    assert [stem(name) for name in ("a.nii.gz", "b.c.png", "C.NII.GZ", "../d.nii", "e")] == ["a", "b.c", "C", "d", "e"]
