import errno
import os

import pytest

from infers.disks import disk_problem


def error(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(("number", "status", "words"), [
    (errno.ENOSPC, 507, "make room"), (errno.EDQUOT, 507, "make room"), (errno.EROFS, 503, "mount it writable"),
    (errno.EACCES, 503, "the right to write"), (errno.ENOENT, 503, "its drive is there"), (errno.EIO, 503, "try again"),
])  # fmt: skip
def test_whoever_saved_is_told_what_is_wrong_and_where(tmp_path, number, status, words):
    got, detail = disk_problem(error(number, str(tmp_path / "label.nii.gz")))
    assert got == status
    assert words in detail
    assert str(tmp_path) in detail


def test_a_full_disk_says_how_much_is_free_even_of_a_folder_that_is_gone(tmp_path):
    assert "MB free" in disk_problem(error(errno.ENOSPC, str(tmp_path / "gone" / "label")))[1]


def test_errors_of_other_kinds_are_none_of_a_disk():
    assert disk_problem(error(errno.ECONNRESET)) is None
    assert disk_problem(OSError("no number")) is None
