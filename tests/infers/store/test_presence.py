"""A study folder that is away, is back, or cannot be written."""

import os
import shutil

import pytest

from infers.label_records import FINAL
from infers.store.datastore import StudyStore
from infers.store.presence import MARK, STATE_FOLDER
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def folder(tmp_path):
    """A study folder with two volumes, and a label file beside it."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(2):
        write_nifti(studies / f"s{number}.nii.gz", organ_volume(number)[0])
    write_nifti(tmp_path / "label.nii.gz", organ_volume(0)[1])
    return studies


@pytest.fixture
def closed(folder, tmp_path, monkeypatch):
    """The same folder, which this process may read and not write."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    opened = [path for path in tmp_path.parents if not path.stat().st_mode & 0o005 == 0o005]
    modes = {path: path.stat().st_mode for path in (*opened, tmp_path, folder)}
    for path in modes:
        path.chmod(0o755)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    for path, mode in modes.items():
        path.chmod(mode)


def save(store, study="s0"):
    store.save_label(study, str(store.root.parent / "label.nii.gz"), FINAL, {})


@pytest.mark.parametrize("in_its_place", [False, True])
def test_a_folder_that_is_away_is_no_empty_list_and_nothing_is_written_in_its_place(folder, in_its_place):
    store = StudyStore(str(folder))
    away = folder.rename(folder.with_name("away"))
    if in_its_place:
        folder.mkdir()  # what a share is mounted at
    for act in (store.refresh, lambda: save(store), store.check_there):
        with pytest.raises(FileNotFoundError, match="not there" if not in_its_place else "another folder"):
            act()
    assert store.list_images() == ["s0", "s1"]
    assert not in_its_place or not list(folder.iterdir())
    if in_its_place:
        folder.rmdir()
    away.rename(folder)
    save(store)
    store.refresh()
    assert (store.list_images(), store.get_labeled_images()) == (["s0", "s1"], ["s0"])


def test_a_share_that_comes_back_as_another_folder_is_known_by_its_mark(folder):
    store = StudyStore(str(folder))
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("away"))
    folder.with_name("copy").rename(folder)
    save(store)
    assert store.get_labeled_images() == ["s0"]


def test_what_the_app_remembers_is_made_anew_where_somebody_tidied_it_up_and_the_folder_stays_the_same(folder):
    store = StudyStore(str(folder))
    mark = (store.state / MARK).read_text()
    shutil.rmtree(store.state)
    save(store)
    assert (store.state / MARK).read_text() == mark


class Share:
    """A study folder that is replaced by an empty one, and comes back."""

    def __init__(self, folder):
        self.folder, self.away = folder, folder.with_name("away")

    def go(self):
        if not self.away.exists():
            self.folder.rename(self.away)
            self.folder.mkdir()

    def come(self):
        self.folder.rmdir()  # fails where anything was written into it
        self.away.rename(self.folder)


@pytest.mark.parametrize("moment", ["mkdir", "fsync", "replace"])
def test_an_empty_folder_that_takes_its_place_during_a_save_is_neither_written_nor_taken(folder, monkeypatch, moment):
    store, share = StudyStore(str(folder)), Share(folder)
    (folder / "labels" / FINAL).rmdir()  # which the save makes anew
    real = getattr(os, moment)

    def late(*args, **options):
        if moment == "fsync" or any(option.endswith("dir_fd") for option in options):  # not of the lock's folder
            share.go()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, late)
        with pytest.raises(FileNotFoundError, match="another folder"):
            save(store)
    for act in (store.check_there, store.refresh, lambda: save(store)):
        with pytest.raises(FileNotFoundError, match="another folder"):
            act()
    share.come()
    save(store)
    store.refresh()
    assert (store.list_images(), store.get_labeled_images()) == (["s0", "s1"], ["s0"])


def test_a_folder_whose_state_is_gone_too_when_another_takes_its_place_is_not_the_other(folder):
    store, share = StudyStore(str(folder)), Share(folder)
    shutil.rmtree(store.state)
    share.go()
    (folder / STATE_FOLDER).mkdir()  # by whoever wrote something at the moment at which it went
    with pytest.raises(FileNotFoundError, match="another folder"):
        store.check_there()
    assert not list((folder / STATE_FOLDER).iterdir())


def test_a_folder_that_cannot_be_written_is_served_and_keeps_no_label(closed):
    store = StudyStore(str(closed))
    assert store.closed
    assert closed not in store.state.parents
    assert store.list_images() == ["s0", "s1"]
    with pytest.raises(PermissionError):
        save(store)
    assert store.get_labeled_images() == []
    store.refresh()
    assert store.unreadable() == {}
    assert sorted(path.name for path in closed.iterdir()) == ["s0.nii.gz", "s1.nii.gz"]
