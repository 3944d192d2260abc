"""Images kept in memory within a bound: one that is looked at again, by whoever it is, is not read again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cachetools import LRUCache

from lib.imaging.detached import companions
from lib.imaging.errors import ImageError
from lib.imaging.formats import DETACHED
from lib.imaging.image import Image
from lib.imaging.images import read_image
from lib.imaging.stamps import stamp_of

Key = tuple[Path, int]


class ImageCache:
    """Images by their files; the least recently used go first. Threads may share it.

    What it gives is shared: nobody writes into an image's array.

    Args:
        room: bytes of voxels to keep; a larger image is read each time.
    """

    def __init__(self, room: int) -> None:
        self._images: LRUCache[Key, tuple[object, Image]] = LRUCache(room, getsizeof=lambda one: one[1].array.nbytes)
        self._lock = threading.Lock()
        self._turns: dict[Key, tuple[threading.Lock, int]] = {}  # of those that are being read; how many wait for them

    def read(self, path: str | Path, frame: int = 0) -> Image:
        """As `read_image`, while the file is the same from memory. Raises ImageError."""
        key = (Path(path), frame)
        if (known := self._known(key, stamp := stamp_of_image(key[0]))) is not None:
            return known
        with self._turn(key):  # who wants the same waits for it instead of reading it too
            if (known := self._known(key, stamp)) is not None:
                return known
            image = read_image(*key)
            with self._lock, suppress(ValueError):  # larger than the whole room
                self._images[key] = (stamp, image)
            return image

    def peek(self, path: str | Path) -> Image:
        """The same, but what had to be read is not kept: for a look at a whole list, each image once."""
        known = self._known((Path(path), 0), stamp_of_image(Path(path)))
        return read_image(path) if known is None else known

    @property
    def held(self) -> int:
        """Bytes of voxels."""
        return int(self._images.currsize)

    def _known(self, key: Key, stamp: object) -> Image | None:
        with self._lock:
            known = self._images.get(key)
            return known[1] if known is not None and stamp is not None and known[0] == stamp else None

    @contextmanager
    def _turn(self, key: Key) -> Iterator[None]:
        with self._lock:
            turn, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = turn, waiting - 1


def stamp_of_image(path: Path) -> object:
    """Changes with an image's file, with the files that it needs, or with those in a series' folder; None where it
    cannot be told."""
    try:
        if path.is_dir():
            return tuple((one.name, stamp_of(one)) for one in sorted(path.iterdir()))
        others = companions(path) if path.name.lower().endswith(DETACHED) else []
    except (ImageError, OSError):  # reading it says what is wrong
        return None
    return tuple(stamp_of(one) for one in (path, *others))
