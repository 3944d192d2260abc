"""Folders of this machine and of fsspec, in one form."""

import errno
import pickle

import pytest

from lib.cluster.host import Away
from lib.imaging.errors import ImageError
from scripts.archive import storage as module
from scripts.archive.storage import Storage, reaching


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    return Storage(str(tmp_path / "out") if request.param == "folder" else f"memory://{tmp_path}/out")


def test_what_is_written_is_read_listed_renamed_and_removed(storage):
    assert storage.read("a/b.bin") is None
    assert storage.names("a") == []
    storage.write("a/b.bin", b"1")
    storage.write("a/b.bin", b"22")
    assert storage.read("a/b.bin") == b"22"
    storage.rename("a/b.bin", "a/c.bin")
    assert storage.names("a") == ["c.bin"]
    storage.remove("a/c.bin")
    storage.remove("a/c.bin")
    assert storage.names("a") == []


def test_it_lists_what_lies_below_and_fetches_it(storage, tmp_path):
    storage.write("x/y.bin", b"1")
    storage.write("z.bin", b"2")
    found = {(folder, tuple(names)) for folder, _, names in storage.walk() if names}
    assert found == {(".", ("z.bin",)), ("x", ("y.bin",))}
    assert storage.fetch("x/y.bin", tmp_path).read_bytes() == b"1"


@pytest.mark.parametrize("name", ["../x", "masks/../../x", "/etc/x", "a\0b", ""])
def test_no_id_of_a_study_leads_out_of_the_folder(storage, name, tmp_path):
    for act in (
        lambda: storage.write(name, b"1"),
        lambda: storage.read(name),
        lambda: storage.remove(name),
        lambda: storage.rename(name, "a"),
        lambda: storage.rename("a", name),
        lambda: storage.fetch(name, tmp_path),
    ):
        with pytest.raises(ImageError, match="may not lead out of the folder"):
            act()


def test_it_travels_to_another_process(storage):
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


@pytest.mark.parametrize(("number", "away"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EISDIR, False)])
def test_a_full_disk_is_told_apart_from_a_fault_of_the_study(monkeypatch, tmp_path, number, away):
    def fail(path, data):
        raise OSError(number, "what happened")

    monkeypatch.setattr(module, "write_atomically", fail)
    with pytest.raises(Away if away else OSError, match="what happened"):
        Storage(str(tmp_path)).write("a", b"1")


def test_a_connection_that_breaks_is_the_storages_fault():
    with pytest.raises(Away, match=r"s3://x cannot be reached"), reaching("s3://x"):
        raise ConnectionResetError("gone")
