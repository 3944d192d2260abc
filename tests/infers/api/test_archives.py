import errno
import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zipfile

import pytest
from fastapi import UploadFile

from infers.api.archives import GULP, received_image
from infers.errors import ClientError
from infers.limits import MB, Limits

SMALL = Limits(upload=MB, entries=20, depth=4)
FILE = tarfile.REGTYPE


def tar_of(*members, mode="w:gz", size=1, **fields):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        for name, kind in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.pax_headers = kind, fields
            entry.size = size if kind == FILE else 0
            entry.linkname = "/etc/passwd" if kind != FILE else ""
            tar.addfile(entry, io.BytesIO(b"x" * size))
    return buffer.getvalue()


def zip_of(*names, packed=zipfile.ZIP_DEFLATED, size=1):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name in names:
            archive.writestr(name, b"x" * size)
    return buffer.getvalue()


def upload(content, name="images.tar"):
    return UploadFile(io.BytesIO(content), filename=name)


def unpacked(content, name="images.tar", limits=SMALL):
    """Relative names of the files that an upload brought."""
    with received_image([upload(content, name)], True, limits) as image:
        if image.is_file():
            return image.name
        return sorted(str(path.relative_to(image)) for path in image.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, with a neighbour that nothing may touch; empty again after every test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    (tmp_path / "neighbour").write_text("as it was")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["neighbour"]
    assert (tmp_path / "neighbour").read_text() == "as it was"


@pytest.mark.parametrize("content", [
    tar_of(("s/1.dcm", FILE), ("s/2.dcm", FILE), mode="w"), tar_of(("s/1.dcm", FILE), ("s/2.dcm", FILE)),
    tar_of(("1.dcm", FILE), ("2.dcm", FILE), mode="w:bz2"),
    tar_of(("./a/1.dcm", FILE), ("./a/2.dcm", FILE), mode="w:xz"),
    zip_of("1.dcm", "2.dcm"), zip_of("a/b/1.dcm", "a/b/2.dcm", "__MACOSX/a/._1.dcm", "a/.DS_Store"),
])  # fmt: skip
def test_a_series_comes_out_of_every_kind_of_archive_whatever_it_is_called(content):
    for name in ("images.zip", "images.tar", "images.tar.gz", "images"):
        assert unpacked(content, name) == ["1.dcm", "2.dcm"]


def test_an_archive_of_one_image_is_that_image():
    assert unpacked(tar_of(("folder/ct.nii.gz", FILE))) == "ct.nii.gz"


@pytest.mark.parametrize(
    "content",
    [
        tar_of(("../x", FILE)),
        tar_of(("a/../../x", FILE)),
        tar_of(("/abs", FILE)),
        tar_of(("link", tarfile.SYMTYPE)),
        tar_of(("link", tarfile.LNKTYPE)),
        tar_of(("pipe", tarfile.FIFOTYPE)),
        tar_of(("disk", tarfile.BLKTYPE)),
        tar_of(("a", tarfile.SYMTYPE), ("a/x", FILE)),
        zip_of("../x"),
        zip_of("a\\..\\..\\x"),
        zip_of("/abs"),
        tar_of(("x", FILE), ("x", FILE)),
        tar_of(("x", FILE), ("x/y", FILE)),
        zip_of("x" * 250),
        tar_of(),
        zip_of(".hidden"),
        zip_of("a\nb"),
        b"no archive",
        gzip.compress(b"no archive"),
        b"",
        b"PK\x03\x04 and no more",
        tar_of(("x", FILE))[:-30],
    ],
    ids=lambda content: f"{len(content)} bytes",  # not the bytes: they tell the time at which they were made
)
def test_an_archive_of_anything_but_plain_files_in_their_own_folder_is_refused(content):
    with pytest.raises(ClientError) as refused:
        unpacked(content)
    assert refused.value.status == 400


def test_a_file_that_is_two_archives_is_taken_for_one_of_them_only():
    # The end says zip and the beginning tar: a check of one and an unpacking of the other wrote anywhere
    both = tar_of(("../../neighbour", FILE), mode="w") + zip_of("harmless.dcm")
    for name in ("a.tar", "a.zip"):
        with pytest.raises(ClientError, match="below its own folder"):
            unpacked(both, name)


@pytest.mark.parametrize("content", [
    tar_of(*((f"{number}", FILE) for number in range(21))), zip_of(*map(str, range(21))), zip_of("a/b/c/d/e.dcm"),
    tar_of(("zeros", FILE), size=2 * MB), zip_of("zeros", size=2 * MB), zip_of("a", "b", size=MB * 3 // 4),
    tar_of(("zeros", FILE), size=0, comment="x" * 2 * MB),
])  # fmt: skip
def test_an_archive_that_would_take_more_than_the_limits_is_refused_with_the_limit(content):
    with pytest.raises(ClientError) as refused:
        unpacked(content)
    assert refused.value.status == 413


def test_a_header_that_claims_a_great_length_is_not_read_into_memory():
    with pytest.raises(ClientError, match="headers"):
        unpacked(tar_of(("x", FILE), comment="x" * (GULP + MB)), limits=Limits())


def test_packings_that_unpack_in_pieces_of_any_size_are_refused():
    with pytest.raises(ClientError, match="stored or deflated"):
        unpacked(zip_of("x", packed=zipfile.ZIP_LZMA))


def test_a_full_disk_is_not_the_archives_fault(monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpacked(zip_of("x"))


def test_several_files_lie_together_under_plain_names():
    files = [upload(b"1", "a/1.dcm"), upload(b"2", "2.dcm")]
    with received_image(files, False, SMALL) as image:
        assert sorted(path.name for path in image.iterdir()) == ["1.dcm", "2.dcm"]
        assert image.stat().st_mode & 0o077 == 0
    for wrong in (["same.dcm", "other/same.dcm"], ["..", "x"], ["", "x"]):
        with pytest.raises(ClientError), received_image([upload(b"1", name) for name in wrong], False, SMALL):
            pass
    with pytest.raises(ClientError, match="one archive"), received_image(files, True, SMALL):
        pass


def test_an_upload_that_was_moved_away_is_not_missed(tmp_path, temporary):
    for files in ([upload(b"1", "a.nii.gz")], [upload(b"1", "1.dcm"), upload(b"2", "2.dcm")]):
        with received_image(files, False, SMALL) as image:
            shutil.move(image, temporary / "kept")
        assert (temporary / "kept").exists()
        shutil.rmtree(temporary / "kept") if (temporary / "kept").is_dir() else (temporary / "kept").unlink()
