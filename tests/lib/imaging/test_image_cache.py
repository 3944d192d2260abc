import os
import threading

import nibabel
import numpy as np
import pytest

from lib.imaging import image_cache
from lib.imaging.image_cache import ImageCache
from lib.imaging.images import ImageError, read_image


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "a.nii.gz", 1)


@pytest.fixture
def reads(monkeypatch):
    """What was read from files, in order."""
    found = []

    def read(path, frame=0):
        found.append((path.name, frame))
        return read_image(path, frame)

    monkeypatch.setattr(image_cache, "read_image", read)
    return found


def save(path, seed, shape=(8, 9, 5)):
    voxels = np.random.default_rng(seed).integers(0, 100, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def test_an_image_is_read_once(path, reads):
    cache = ImageCache(10**6)
    assert cache.read(path) is cache.read(str(path))
    assert reads == [("a.nii.gz", 0)]
    assert cache.held == 8 * 9 * 5 * 2


def test_another_file_under_the_name_is_read_anew(path):
    cache = ImageCache(10**6)
    before = cache.read(path)
    save(path.with_name("b.nii.gz"), 2)
    os.replace(path.with_name("b.nii.gz"), path)
    np.testing.assert_array_equal(cache.read(path).array, read_image(path).array)
    assert cache.read(path).checksum != before.checksum


def test_a_header_whose_voxels_lie_beside_it_is_read_anew_when_those_change(tmp_path):
    voxels = tmp_path / "v.raw"
    (tmp_path / "v.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = v.raw\n"
    )
    voxels.write_bytes(bytes(range(24)))
    cache = ImageCache(10**6)
    assert cache.read(tmp_path / "v.mhd").array.max() == 23
    voxels.write_bytes(bytes(range(1, 25)))
    assert cache.read(tmp_path / "v.mhd").array.max() == 24


def test_each_volume_of_a_series_is_an_image_of_its_own(tmp_path):
    series = save(tmp_path / "s.nii.gz", 3, (6, 5, 4, 2))
    cache = ImageCache(10**6)
    assert cache.read(series, 0).checksum != cache.read(series, 1).checksum
    assert cache.read(series, 1) is cache.read(series, 1)


def test_the_least_recently_used_goes_first_and_what_is_too_large_is_not_kept(tmp_path, reads):
    paths = [save(tmp_path / f"{n}.nii.gz", n, (4, 4, 4)) for n in range(3)]
    cache = ImageCache(2 * 128)
    for path in (*paths[:2], paths[0], paths[2], paths[0]):
        cache.read(path)
    assert [name for name, _ in reads] == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    large = save(tmp_path / "large.nii.gz", 4)
    assert cache.read(large).array.shape == (8, 9, 5)
    assert cache.held == 2 * 128


def test_a_look_at_an_image_does_not_keep_it_but_takes_it_from_memory(path, reads):
    cache = ImageCache(10**6)
    cache.peek(path)
    assert cache.held == 0
    assert cache.read(path) is cache.peek(path)
    assert len(reads) == 2


def test_what_cannot_be_read_says_so_each_time(tmp_path, path):
    cache = ImageCache(10**6)
    for _ in range(2):
        with pytest.raises(ImageError, match="no such file"):
            cache.read(tmp_path / "none.nii.gz")
    cache.read(path)
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        cache.read(path)


def test_who_wants_what_is_being_read_waits_for_it(path, monkeypatch):
    reading, go_on, reads = threading.Event(), threading.Event(), []

    def read(path, frame=0):
        reads.append(path)
        reading.set()
        assert go_on.wait(60)
        return read_image(path, frame)

    monkeypatch.setattr(image_cache, "read_image", read)
    cache, found = ImageCache(10**6), []
    threads = [threading.Thread(target=lambda: found.append(cache.read(path))) for _ in range(2)]
    threads[0].start()
    assert reading.wait(60)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert found[0] is found[1]
    assert len(reads) == 1
