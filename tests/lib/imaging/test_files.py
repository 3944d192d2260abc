import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.imaging.files import KeptFile, array_bytes, read_arrays, sweep, write_atomically

ROOT = Path(__file__).resolve().parents[3]
KILLED = """
import os, sys
import lib.imaging.files
os.replace = lambda *_, **__: os._exit(9)  # the power goes before the file has its name
lib.imaging.files.write_atomically(sys.argv[1], b"content")
"""


def left_behind(path):
    """What a process leaves that dies while it writes `path`."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    assert done.returncode == 9
    return [file for file in path.parent.iterdir() if file.suffix == ".tmp"]


def test_what_a_killed_process_left_is_swept_away_and_nothing_else(tmp_path):
    write_atomically(tmp_path / "label.nii.gz", b"old")
    left = left_behind(tmp_path / "label.nii.gz")
    assert len(left) == 1
    other = tmp_path / f".00000000-{os.getppid()}-{'0' * 32}.tmp"  # of another machine, just now
    for name in (other.name, "mine.tmp", ".mine.tmp"):
        (tmp_path / name).write_bytes(b"somebody else's")
    assert sweep([tmp_path, tmp_path / "missing"]) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [other.name, ".mine.tmp", "label.nii.gz", "mine.tmp"]
    )
    assert (tmp_path / "label.nii.gz").read_bytes() == b"old"
    os.utime(other, (0, 0))
    assert sweep([tmp_path]) == [other]


def test_files_of_processes_that_live_are_left_alone(tmp_path):
    left = left_behind(tmp_path / "label.nii.gz")[0]
    machine, _, rest = left.name[1:].split("-")
    living = left.rename(tmp_path / f".{machine}-{os.getppid()}-{rest}")
    assert sweep([tmp_path]) == []
    assert living.exists()


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127])
def test_every_name_that_the_file_system_takes_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 1


def json_file(path):
    return KeptFile(path, lambda file: dict(json.loads(file.read_text())), lambda value: json.dumps(value).encode())


def test_a_kept_file_gives_back_what_was_written_and_nothing_where_there_is_none(tmp_path):
    file = json_file(tmp_path / "folder" / "a.json")
    assert file.read() is None
    file.write({"a": 1})
    assert file.read() == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"[1", b"7", b"\xff"])
def test_a_kept_file_that_cannot_be_read_is_set_aside(tmp_path, content, caplog):
    (tmp_path / "a.json").write_bytes(content)
    file = json_file(tmp_path / "a.json")
    assert file.read() is None
    assert (tmp_path / "a.json.broken").read_bytes() == content
    assert not (tmp_path / "a.json").exists()
    assert "kept as a.json.broken" in caplog.text


def test_a_kept_file_that_the_disk_does_not_give_stays_where_it_is(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError):
        json_file(tmp_path / "a.json").read()
    assert (tmp_path / "a.json").exists()


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back_from_their_bytes(tmp_path, compress):
    arrays = {"a": np.arange(6).reshape(2, 3), "name": np.array("text")}
    (tmp_path / "a.npz").write_bytes(array_bytes(arrays, compress))
    for name, array in read_arrays(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
    (tmp_path / "a.npz").write_bytes(array_bytes({"a": np.array([{}])}))
    with pytest.raises(ValueError, match="pickle"):
        read_arrays(tmp_path / "a.npz")


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_is_said(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(handle):
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "bytes")
        fsync(handle)

    def noted_replace(*paths, **folders):
        order.append("name")
        replace(*paths, **folders)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "label.nii.gz", b"new")
    assert order == ["bytes", "name", "folder"]
