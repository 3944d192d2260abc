"""Pictures of studies for the board: drawn when asked for, kept in memory within a bound, never on disk."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from cachetools import LRUCache, cached
from PIL import Image as Pillow

from infers.label_records import AUTOMATIC, FINAL, PROMPTED
from infers.store.datastore import StoredLabel
from infers.study_list.studies import Studies
from lib.imaging.images import Image, read_label
from lib.imaging.pictures import colour_of, hexadecimal, overlay
from lib.imaging.stamps import stamp_of

SIZES = (192, 640)  # pixels of the longer side: in the list, and large
AT_ONCE = 2  # drawn at the same time: a page of large volumes must not take every core and all the memory


class Thumbnails:
    """Pictures of one study list.

    Args:
        studies: the study list.
        capacity: bytes of pictures to keep.
    """

    def __init__(self, studies: Studies, capacity: int) -> None:
        self._studies, self._turns = studies, threading.Semaphore(AT_ONCE)
        # Who asks for what is being drawn waits for it; a picture larger than the room is the only one in it
        self._room: LRUCache[object, bytes] = LRUCache(capacity, getsizeof=lambda png: min(len(png), capacity))
        self._pictures = cached(self._room, key=lambda key, *_: key, condition=threading.Condition())(self._draw)

    def png(self, image_id: str, size: int) -> bytes:
        """The most telling slice of a study as PNG, with its final label or else its automatic mask drawn in.

        Raises:
            NotFound: no such study.
            ImageError: an image or label that cannot be read.
        """
        path = Path(self._studies.store.get_image_uri(image_id))
        label = shown_label(self._studies, image_id)
        numbers = self._studies.labels.names
        key = (image_id, stamp_of(path), label and label.checksum, tuple(numbers.items()), size)
        picture: bytes = self._pictures(key, image_id, label, numbers, size)
        return picture

    def _draw(self, key: object, image_id: str, label: StoredLabel | None, numbers: dict[str, int], size: int) -> bytes:
        with self._turns:
            image = self._studies.image(image_id)
            mask = None if label is None else _by_name(label, image, numbers)
            file = io.BytesIO()
            Pillow.fromarray(overlay(image, mask, size)).save(file, "PNG")
        return file.getvalue()

    @property
    def held(self) -> int:
        """Bytes of pictures."""
        return int(self._room.currsize)


def shown_label(studies: Studies, image_id: str) -> StoredLabel | None:
    """The label that stands for a study: the final one, else the answer to its prompts, else the automatic mask."""
    tagged = (studies.store.label(image_id, tag) for tag in (FINAL, PROMPTED, AUTOMATIC))
    return next(filter(None, tagged), None)


def colours(names: dict[str, int]) -> dict[str, str]:
    """{structure: its colour in the pictures, #rrggbb}."""
    return {name: hexadecimal(colour_of(number)) for name, number in names.items()}


def _by_name(stored: StoredLabel, image: Image, numbers: dict[str, int]) -> np.ndarray:
    """The label map with each structure's own number, so that it has the same colour in every study."""
    label = read_label(stored.path, image)
    table = np.arange(int(label.max()) + 1)
    for name, value in (stored.record.structures or {}).items():
        if name in numbers and value < table.size:
            table[value] = numbers[name]
    return table[label]
