"""MONAI Label's local datastore, safe for several threads and processes.

MONAI Label keeps its index of images and labels in one file, which every process reads, changes and writes as it
likes, and in one dictionary, which every thread clears and fills as it likes. Here whoever changes something holds a
lock of this process and one of the study folder, has read what others wrote, and writes the index whole.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore, LocalDatastoreModel

from infers.disks import CLOSED, is_closed
from infers.errors import NotFound
from infers.label_records import AUTOMATIC, FINAL
from infers.records import plain_record, read_record, write_record
from infers.store.presence import Presence
from lib.imaging.files import set_aside
from lib.imaging.stamps import stamp_of

logger = logging.getLogger(__name__)

INDEX, LABELS = "datastore_v2.json", "labels"
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
        self._auto_reload, self._extensions = False, extensions
        self._datastore_path, self._datastore_config_path = datastore_path, os.path.join(datastore_path, INDEX)
        self._datastore = LocalDatastoreModel(name="new-dataset", description="New Dataset", images_dir=".")
        self._datastore.base_path = datastore_path
        if not self.closed:
            _set_aside_if_broken(Path(self._datastore_config_path))
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

    get_image_uri = _locked(LocalDatastore.get_image_uri)
    get_image_info = _locked(LocalDatastore.get_image_info)
    get_label_uri = _locked(LocalDatastore.get_label_uri)
    get_labels_by_image_id = _locked(LocalDatastore.get_labels_by_image_id)
    get_labeled_images = _locked(LocalDatastore.get_labeled_images)
    get_unlabeled_images = _locked(LocalDatastore.get_unlabeled_images)
    list_images = _locked(LocalDatastore.list_images)
    datalist = _locked(LocalDatastore.datalist)
    status = _locked(LocalDatastore.status)
    json = _locked(LocalDatastore.json)

    @_locked
    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is recorded about a label; {} where nothing is."""
        label = self._datastore.label(label_id, label_tag)
        return dict(label.info) if label else {}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known about an image. Raises NotFound."""
        with self._exclusive():
            self._tags(image_id)
            self._datastore.objects[image_id].image.info.update(plain_record(info))
            self._update_datastore_file(lock=False)

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
        self.check_there()
        with self._lock, self._process_lock:
            if read:
                self._init_from_datastore_file()
            try:
                yield
            except BaseException:
                if not self._together:  # what failed is not remembered either: memory says what the index says
                    self._config_ts = 0
                    with suppress(OSError):
                        self._init_from_datastore_file()
                raise

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
        try:
            self._datastore = _read_index(path)
        except ValueError as error:
            logger.error("%s is broken and will be written anew: %s", path, error)
        self._datastore.base_path = self._datastore_path
        self._config_ts = stamp

    def _update_datastore_file(self, lock: bool = True) -> None:
        path = Path(self._datastore_config_path)
        with self._exclusive(read=False):
            if self._together:
                self._changed = True
                return
            if self.closed:
                return  # the index is only kept in memory: the files are the truth
            write_record(path, self._datastore.model_dump(exclude={"base_path"}))
            self._config_ts = stamp_of(path)

    def _reconcile_datastore(self) -> None:
        if Path(self._datastore.label_path(None)).is_dir():
            super()._reconcile_datastore()
        else:  # in a folder that cannot be written
            self._remove_non_existing()
            self._add_non_existing_images()


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


def _set_aside_if_broken(path: Path) -> None:
    """Start from the files where the index is broken."""
    if path.exists():
        try:
            _read_index(path)
        except ValueError as error:
            set_aside(path, error)
