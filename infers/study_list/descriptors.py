"""Descriptors of every study, vectors that say what it looks like: computed once in the background, and kept in one
file.

A descriptor is small (`lib.inference.templates.study_descriptor`), reading the image for it is not. The file is a
cache: it is written whole, and less and less often the longer it gets, so that all writing together grows with the list
as the list does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from lib.imaging.files import KeptFile, Write, array_bytes, read_arrays, write_atomically
from lib.imaging.images import Image, read_image
from lib.imaging.stamps import lasting_stamp
from lib.inference.templates import study_descriptor

logger = logging.getLogger(__name__)

LEAST_NEWS = 32  # descriptors; fewer are not worth a write while more are coming
GROWTH = 0.1  # nor is less than this share of what the file holds

Known = dict[str, tuple[str, np.ndarray]]  # image id: (stamp of its file, descriptor in float16)


class Images(Protocol):
    """What is needed of the datastore."""

    def list_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def note_image(self, image_id: str, note: str) -> None: ...


class Descriptors:
    """The descriptors of one study list; safe to share between threads.

    Args:
        store: the study list.
        file: the cache.
        describe: image to a vector of unit length.
        read: gives the image in a file.
        write: replaces the cache.
    """

    def __init__(
        self,
        store: Images,
        file: Path,
        describe: Callable[[Image], np.ndarray] = study_descriptor,
        read: Callable[[str], Image] = read_image,
        write: Write = write_atomically,
    ) -> None:
        self._store, self._describe, self._read = store, describe, read
        self._file = KeptFile(file, _load, _dump, write)
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._known = self._kept()
        self._news = 0

    def refresh(self) -> None:
        """Describe, in the background, every study that is new or that changed; returns at once."""
        self._wanted.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="descriptors", daemon=True)
                self._thread.start()

    def get(self, image_id: str) -> np.ndarray | None:
        """(D,) float32, or None where the study is not described yet."""
        entry = self._known.get(image_id)
        return None if entry is None else entry[1].astype(np.float32)

    def known(self, ids: Iterable[str]) -> tuple[list[str], np.ndarray]:
        """The studies among `ids` that are described, and their descriptors (N, D) float32."""
        known = self._known
        described = [image_id for image_id in ids if image_id in known]
        if not described:
            return [], np.zeros((0, 1), np.float32)
        return described, np.stack([known[image_id][1] for image_id in described]).astype(np.float32)

    def of(self, image_id: str, image: Image | None = None) -> np.ndarray:
        """(D,) float32; computed now, from `image` where that is given, if the study is not described yet.

        Raises:
            ImageError, ClientError: an image that cannot be read, or that is not there.
        """
        known = self.get(image_id)
        if known is not None:
            return known
        uri = self._store.get_image_uri(image_id)
        return self._keep(image_id, lasting_stamp(Path(uri)), self._read(uri) if image is None else image)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            for image_id in self._store.list_images():
                try:
                    uri = self._store.get_image_uri(image_id)
                    stamp = lasting_stamp(Path(uri))
                    if self._known.get(image_id, ("",))[0] != stamp:
                        self._keep(image_id, stamp, self._read(uri))
                except Exception as error:  # whatever one study or the DICOMweb server brings
                    logger.info("%s cannot be looked at: %s", image_id, error)
            self._save(at_once=True)

    def _keep(self, image_id: str, stamp: str, image: Image) -> np.ndarray:
        # Rounded at once: the same templates must be chosen before and after a restart
        descriptor = self._describe(image).astype(np.float16)
        self._store.note_image(image_id, image.note)
        with self._lock:
            self._known[image_id] = (stamp, descriptor)
            self._news += 1
        self._save()
        return np.asarray(descriptor.astype(np.float32))

    def _save(self, at_once: bool = False) -> None:
        if self._news < (1 if at_once else max(LEAST_NEWS, GROWTH * len(self._known))):
            return
        listed = set(self._store.list_images())  # before the lock: whoever refreshes may hold the store's
        with self._lock:
            kept = {image_id: entry for image_id, entry in self._known.items() if image_id in listed}
            self._known = kept
            try:
                self._file.write(kept)
            except OSError as error:  # it is a cache, and written when there is more of it
                logger.warning("what studies look like is not kept: %s", error)
                return
            self._news = 0

    def _kept(self) -> Known:
        try:
            return self._file.read() or {}
        except OSError as error:
            logger.warning("every study is looked at again: %s", error)
            return {}


def _load(path: Path) -> Known:
    arrays = read_arrays(path)
    ids, stamps = arrays["ids"].tolist(), arrays["stamps"].tolist()
    return dict(zip(ids, zip(stamps, arrays["looks"], strict=True), strict=True))


def _dump(known: Known) -> bytes:
    stamps, descriptors = zip(*known.values(), strict=True) if known else ((), ())
    return array_bytes(
        {"ids": np.array(list(known), str), "stamps": np.array(stamps, str), "looks": np.array(descriptors)}
    )
