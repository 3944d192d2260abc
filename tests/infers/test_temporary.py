import os
import subprocess
import sys
import tempfile

from infers.temporary import sweep_temporary
from lib.imaging.files import temporary_prefix


def test_what_killed_processes_left_is_swept_away_and_what_lives_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [tmp_path / f"oneprompt-{ended.pid}-a", tmp_path / f"oneprompt-{ended.pid}-b.nii.gz"]
    left[0].mkdir()
    (left[0] / "upload.nii.gz").write_bytes(b"x")
    left[1].write_bytes(b"x")
    others = [
        tmp_path / f"oneprompt-{os.getppid()}-c",
        tmp_path / "oneprompt-demo-1",
        tmp_path / f"other-{ended.pid}-d",
    ]
    for path in others:
        path.write_bytes(b"x")
    assert sorted(sweep_temporary()) == [path.name for path in left]
    assert sorted(tmp_path.iterdir()) == sorted(others)
    assert temporary_prefix() == f"oneprompt-{os.getpid()}-"
