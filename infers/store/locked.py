"""MONAI Label's local datastore, safe for several threads and processes.

MONAI Label keeps its index of images and labels in one file, which every process reads, changes and writes as it
likes, and in one dictionary, which every thread clears and fills as it likes. Here whoever changes something holds a
lock of this process and one of the study folder, has read what others wrote, and writes the index whole.

The index is no truth, files are, and it is large on a long list. So what a job adds study by study is written at once
only while that is quick, else now and then (`_write_soon`), and work grows with the list and not with its square.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from infers.disks import CLOSED, is_closed
from infers.errors import NotFound
from infers.label_records import AUTOMATIC, FINAL
from infers.records import read_record, record_bytes
from infers.store.presence import Presence
from lib.imaging.files import set_aside
from lib.imaging.stamps import stamp_of
from lib.plain_json import plain_json

logger = logging.getLogger(__name__)

INDEX, LABELS = "datastore_v2.json", "labels"
QUICK = 0.05  # seconds that writing the index may take for each study of a job
LITTLE = 0.005  # and core seconds
SHARE = 50  # times as long as a write takes pass before the next one
NO_IMAGE = "there is no image {!r} in the study list: GET /datastore/?output=all lists them"


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: LockedDatastore, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return run


class LockedDatastore(LocalDatastore):
    """Readers see a whole index, writers lose nothing; `state` is a folder for what the app remembers of the list."""

    def __init__(self, datastore_path: str, *, extensions: list[str], read_only: bool = False) -> None:
        # Does what LocalDatastore's does, also for a folder that cannot be written: what is in it can be served
        self._presence = Presence(Path(datastore_path))
        self.state = self._presence.state
        self._lock = threading.RLock()
        self._process_lock = FileLock(str(self.state / "datastore.lock"))
        self._config_ts: Any = 0
        self._together, self._changed = False, False  # within `at_once`; something changed since it began
        self._version = 0
        self._tagged: dict[str, list[str]] = {}  # ids of the images with a label of a tag, while that stays so
        self._write_seconds, self._write_core = 0.0, 0.0  # that the index took the last time, and the core
        self._unsaved, self._overtaken = False, False  # memory knows more than the index; another one was read then
        self._timer: threading.Timer | None = None
        self._auto_reload, self._extensions = False, extensions
        self._datastore_path, self._datastore_config_path = datastore_path, os.path.join(datastore_path, INDEX)
        self._datastore = LocalDatastoreModel(name="new-dataset", description="New Dataset", images_dir=".")
        self._datastore.base_path = datastore_path
        self._first = None if self.closed else _first_index(Path(self._datastore_config_path))
        self._init_from_datastore_file()
        for tag in (FINAL, AUTOMATIC):
            try:
                Path(self._datastore.label_path(tag)).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                if error.errno not in CLOSED:
                    raise
        if not read_only:
            self._reconcile_datastore()

    @property
    def closed(self) -> bool:
        """Whether the study folder cannot be written: images and labels are served, and nothing is saved."""
        return is_closed(self.root)

    @property
    def root(self) -> Path:
        """The study folder; the state folder of a DICOMweb server's list."""
        return Path(self._datastore_path)

    def check_there(self) -> None:
        """Raises FileNotFoundError while the study folder is away."""
        self._presence.check()

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file of the list or of `state` in the folder that this is, whole or not at all.

        Raises:
            OSError: the folder is away, or the disk does not take it; the file is as it was.
        """
        self._presence.write(path, data)

    @contextmanager
    def lock_file(self, path: str) -> Iterator[None]:
        """Nobody else holds this file of `state` meanwhile, which is made for that. Raises OSError."""
        self.check_there()
        with FileLock(path):
            yield

    get_image_uri = _locked(LocalDatastore.get_image_uri)
    get_image_info = _locked(LocalDatastore.get_image_info)
    get_label_uri = _locked(LocalDatastore.get_label_uri)
    get_labels_by_image_id = _locked(LocalDatastore.get_labels_by_image_id)
    get_unlabeled_images = _locked(LocalDatastore.get_unlabeled_images)
    list_images = _locked(LocalDatastore.list_images)
    datalist = _locked(LocalDatastore.datalist)
    status = _locked(LocalDatastore.status)
    json = _locked(LocalDatastore.json)

    @_locked
    def with_tag(self, tag: str) -> list[str]:
        """Ids of the images that have a label with this tag."""
        if tag not in self._tagged:
            self._tagged[tag] = [image_id for image_id, one in self._datastore.objects.items() if tag in one.labels]
        return list(self._tagged[tag])

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images that have a final label."""
        return LockedDatastore.with_tag(self, FINAL)

    @_locked
    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is recorded about a label; {} where nothing is."""
        label = self._datastore.label(label_id, label_tag)
        return dict(label.info) if label else {}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known about an image. Raises NotFound."""
        with self._exclusive():
            self._tags(image_id)
            self._datastore.objects[image_id].image.info.update(plain_json(info))
            self._update_datastore_file(lock=False)

    @property
    def version(self) -> int | None:
        """Another number whenever the list, or what is recorded of it, may be another; None: that is not known."""
        with self._lock:
            return self._version

    def _touch(self, tag: str | None = None) -> None:
        """Something of the list, or only which labels of a tag there are, is another."""
        with self._lock:
            self._version += 1
            kept = {} if tag is None else self._tagged
            self._tagged = {own: ids for own, ids in kept.items() if own != tag}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Changes that are made within go to the index together; others wait for that long."""
        with self._exclusive():
            self._together, self._changed = True, False
            try:
                yield
            finally:
                self._together = False
                if self._changed:
                    self._update_datastore_file(lock=False)

    @contextmanager
    def _exclusive(self, read: bool = True) -> Iterator[None]:
        """Nobody else changes the list meanwhile; begins with what others wrote."""
        # Who waits for others looks after that: taking the lock of the folder makes its file
        with self._lock, self._there(), self._process_lock:
            if read:
                self._init_from_datastore_file()
                self._catch_up()
            try:
                yield
            except BaseException:
                if not self._together:  # what failed is not remembered either: memory says what the index says
                    self._config_ts = 0
                    self._touch()
                    with suppress(OSError):
                        self._init_from_datastore_file()
                        self._catch_up()
                raise

    @contextmanager
    def _there(self) -> Iterator[None]:
        self.check_there()
        yield

    def _catch_up(self) -> None:
        """Take from the files what memory knew and an index that was read instead did not say."""
        if self._overtaken:
            self._overtaken = False
            self._reconcile_datastore()

    def _write_soon(self, tag: str) -> None:
        """After labels of a tag changed: write the index at once where that is quick, else when a multiple of the time
        it takes has passed."""
        if self._together or (self._write_seconds <= QUICK and self._write_core <= LITTLE):
            self._update_datastore_file(lock=False, tag=tag)
            return
        self._unsaved = True
        self._touch(tag)
        if self._timer is None:
            self._timer = threading.Timer(SHARE * self._write_seconds, self._write_unsaved)
            self._timer.daemon = True
            self._timer.start()

    def _write_unsaved(self) -> None:
        with self._exclusive():
            self._timer = None
            if self._unsaved:
                self._update_datastore_file(lock=False)

    def _tags(self, image_id: str) -> dict[str, DataModel]:
        obj = self._datastore.objects.get(image_id)
        if obj is None:
            raise NotFound(NO_IMAGE.format(image_id[:80]))
        return obj.labels

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        path = Path(self._datastore_config_path)
        stamp = stamp_of(path)
        if stamp in (None, self._config_ts):
            return
        first, self._first = self._first, None
        try:
            self._datastore = first[1] if first and first[0] == stamp else _read_index(path)
        except ValueError as error:
            logger.error("%s is broken and will be written anew: %s", path, error)
        self._datastore.base_path = self._datastore_path
        self._config_ts = stamp
        self._overtaken, self._unsaved = self._overtaken or self._unsaved, False
        self._touch()

    def _update_datastore_file(self, lock: bool = True, tag: str | None = None) -> None:
        path = Path(self._datastore_config_path)
        with self._exclusive(read=False):
            self._touch(tag)
            if self._together:
                self._changed = True
                return
            if self.closed:
                return  # the index is only kept in memory: the files are the truth
            started, core = time.monotonic(), time.thread_time()
            self.write(path, index_bytes(self._datastore))
            self._write_seconds, self._write_core = time.monotonic() - started, time.thread_time() - core
            self._unsaved = False
            self._config_ts = stamp_of(path)

    def _reconcile_datastore(self) -> None:
        if Path(self._datastore.label_path(None)).is_dir():
            super()._reconcile_datastore()
        else:  # in a folder that cannot be written
            self._remove_non_existing()
            self._add_non_existing_images()

    # LocalDatastore's, which compares every file with every image

    def _add_non_existing_images(self) -> int:
        objects, count = self._datastore.objects, 0
        for file in self._list_files(self._datastore.image_path(), self._extensions):
            image_id, extension = self._to_id(file)
            if image_id not in objects:
                objects[image_id] = ImageLabelModel(image=self._new_entry(image_id, extension))
                count += 1
        return count

    def _add_non_existing_labels(self, tag: str) -> int:
        objects, count = self._datastore.objects, 0
        for file in self._list_files(self._datastore.label_path(tag), self._extensions):
            image_id, extension = self._to_id(file)
            if image_id in objects and tag not in objects[image_id].labels:
                objects[image_id].labels[tag] = self._new_entry(image_id, extension)
                count += 1
        return count

    def _remove_non_existing(self) -> int:
        self._init_from_datastore_file()
        there, objects, count = _Existing(), self._datastore.objects, 0
        for image_id, obj in list(objects.items()):
            if not there.holds(self._datastore.image_path(), self._filename(image_id, obj.image.ext)):
                del objects[image_id]
                count += 1
                continue
            for tag, label in list(obj.labels.items()):
                if not there.holds(self._datastore.label_path(tag), self._filename(image_id, label.ext)):
                    del obj.labels[tag]
                    count += 1
        return count

    def _new_entry(self, image_id: str, extension: str) -> DataModel:
        return DataModel(info={"ts": int(time.time()), "name": self._filename(image_id, extension)}, ext=extension)


class _Existing:
    """Which files there are; a folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def holds(self, folder: str, name: str) -> bool:
        """Whether there is a file or folder of this name, or what a link of this name leads to."""
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries if not entry.is_symlink()}
            except OSError:
                self._names[folder] = set()
        return name in self._names[folder] or os.path.exists(os.path.join(folder, name))


def _read_index(path: Path) -> LocalDatastoreModel:
    """The index of a study list, without what leads out of its folder. Raises ValueError, OSError."""
    model = LocalDatastoreModel.model_validate(read_record(path))
    for name, obj in list(model.objects.items()):
        if any(separator in part for part in (name, obj.image.ext, *obj.labels) for separator in "/\\") or any(
            "/" in label.ext for label in obj.labels.values()
        ):
            logger.error("%s: %r is no name of an image here and is left out", path, name)
            del model.objects[name]
    model.images_dir, model.labels_dir = ".", "labels"
    return model


def index_bytes(model: LocalDatastoreModel) -> bytes:
    """The content of a study list's index. `read_record` mends all that pydantic writes, and it writes the fastest."""
    try:
        return model.model_dump_json(exclude={"base_path"}).encode()
    except (ValueError, RecursionError):
        return record_bytes(model.model_dump(exclude={"base_path"}), indent=None)


def _first_index(path: Path) -> tuple[object, LocalDatastoreModel] | None:
    """The index with its stamp; where it is broken, the list starts from the files."""
    if not path.exists():
        return None
    try:
        return stamp_of(path), _read_index(path)
    except ValueError as error:
        set_aside(path, error)
        return None
