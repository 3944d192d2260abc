import os
import shutil

import pytest

from lib.imaging.stamps import lasting_stamp, stamp_of


def test_a_stamp_changes_with_every_write_even_of_as_many_bytes_at_the_same_time(tmp_path):
    file = tmp_path / "a.json"
    assert stamp_of(file) is None
    file.write_bytes(b"one")
    before = stamp_of(file)
    assert stamp_of(file) == before
    (tmp_path / "new").write_bytes(b"two")
    shutil.copystat(file, tmp_path / "new")
    os.replace(tmp_path / "new", file)
    assert stamp_of(file) != before


def test_a_lasting_stamp_is_the_same_on_a_copy_and_another_where_a_part_changed(tmp_path):
    head, voxels = tmp_path / "a.mhd", tmp_path / "a.raw"
    head.write_bytes(b"head")
    voxels.write_bytes(b"voxels")
    before = lasting_stamp(head, voxels)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    assert lasting_stamp(copy / "a.mhd", copy / "a.raw") == before
    voxels.write_bytes(b"others!")
    assert lasting_stamp(head, voxels) != before
    voxels.unlink()
    with pytest.raises(OSError, match=r"a\.raw"):
        lasting_stamp(head, voxels)
