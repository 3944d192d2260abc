import errno

import numpy as np
import pytest

from infers.store.datastore import StudyStore
from infers.study_list.descriptors import Descriptors
from lib.imaging.files import write_atomically
from lib.imaging.images import Image, ImageError
from lib.inference.templates import study_descriptor
from tests.infers.fakes import wait_until
from tests.samples import organ_volume, write_nifti

COUNT = 3


@pytest.fixture
def store(tmp_path):
    for number in range(COUNT):
        write_nifti(tmp_path / f"s{number}.nii.gz", organ_volume(number)[0])
    return StudyStore(str(tmp_path))


class Described:
    """`thumbnail`, and how often it was asked."""

    def __init__(self):
        self.images = 0

    def __call__(self, image):
        self.images += 1
        return study_descriptor(image)


def looked(store, described):
    looks = Descriptors(store, store.state / "looks.npz", described)
    looks.refresh()
    wait_until(lambda: len(looks.known(store.list_images())[0]) == len(store.list_images()))
    return looks


def test_every_study_is_looked_at_once_and_found_again_after_a_restart(store):
    described = Described()
    before = looked(store, described)
    wait_until(lambda: (store.state / "looks.npz").exists())
    after = looked(store, described)
    assert described.images == COUNT
    for image_id in store.list_images():
        np.testing.assert_array_equal(before.get(image_id), after.get(image_id))
        assert np.linalg.norm(after.get(image_id)) == pytest.approx(1, abs=1e-3)


def test_a_broken_cache_costs_one_more_look(store, caplog):
    described = Described()
    looked(store, described)
    wait_until(lambda: (store.state / "looks.npz").exists())
    (store.state / "looks.npz").write_bytes((store.state / "looks.npz").read_bytes()[:300])
    looked(store, described)
    assert described.images == 2 * COUNT
    assert "looks.npz cannot be read" in caplog.text


def test_a_study_that_changed_is_looked_at_again_and_a_removed_one_forgotten(store, tmp_path):
    looks = looked(store, study_descriptor)
    old = looks.get("s1")
    write_nifti(tmp_path / "s1.nii.gz", organ_volume(7)[0])
    store.remove_image("s2")
    looks.refresh()
    wait_until(lambda: not np.array_equal(looks.get("s1"), old) and looks.get("s2") is None)


def test_an_unreadable_study_does_not_stop_the_others(store, tmp_path):
    (tmp_path / "s0.nii.gz").write_bytes(b"torn")
    looks = Descriptors(store, store.state / "looks.npz")
    looks.refresh()
    wait_until(lambda: len(looks.known(["s0", "s1", "s2"])[0]) == 2)
    with pytest.raises(ImageError):
        looks.of("s0")


def test_a_study_is_looked_at_when_somebody_needs_it(store):
    looks = Descriptors(store, store.state / "looks.npz")
    assert looks.get("s1") is None
    assert looks.known(["s1"])[0] == []
    look = looks.of("s1")
    np.testing.assert_array_equal(look, np.array(looks.get("s1")))


def test_a_cache_that_cannot_be_written_costs_no_answer_and_is_written_when_there_is_room(store):
    full = [True]

    def write(path, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, data)

    looks = Descriptors(store, store.state / "looks.npz", write=write)
    looks.refresh()
    wait_until(lambda: len(looks.known(store.list_images())[0]) == COUNT)
    full[0] = False
    looks.refresh()
    wait_until((store.state / "looks.npz").exists)


def test_all_writing_together_grows_as_the_list_does(tmp_path):
    def written(count):
        class Many:
            def list_images(self):
                return [str(number) for number in range(count)]

            def get_image_uri(self, image_id):
                return str(tmp_path)

            def note_image(self, image_id, note):
                pass

        sizes = []
        image = Image(np.eye(2), np.eye(4))
        looks = Descriptors(
            Many(), tmp_path / "none.npz", lambda image: np.ones(64, np.float32) / 8, lambda uri: image,
            lambda path, data: sizes.append(len(data)),
        )  # fmt: skip
        for image_id in Many().list_images():
            looks.of(image_id)
        return sum(sizes)

    assert written(10_000) < 15 * written(1_000)
