"""Pictures of studies for the board: drawn when asked for, kept in memory within a bound, never on disk."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from infers.label_records import AUTOMATIC, FINAL, PROMPTED
from infers.store.datastore import StoredLabel
from infers.study_list.studies import Studies
from lib.imaging.images import Image, read_label
from lib.imaging.pictures import colour_of, hexadecimal, overlay

SIZES = (192, 640)  # pixels of the longer side: in the list, and large
AT_ONCE = 2  # drawn at the same time: a page of large volumes must not take every core and all the memory


class Thumbnails:
    """Pictures of one study list.

    Args:
        studies: the study list.
        capacity: bytes of pictures to keep.
    """

    def __init__(self, studies: Studies, capacity: int) -> None:
        self._studies, self._capacity = studies, capacity
        self._lock, self._turns = threading.Lock(), threading.Semaphore(AT_ONCE)
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def png(self, image_id: str, size: int) -> bytes:
        """The most telling slice of a study as PNG, with its final label or else its automatic mask drawn in.

        Raises:
            NotFound: no such study.
            ImageError: an image or label that cannot be read.
        """
        path = Path(self._studies.store.get_image_uri(image_id))
        label = shown_label(self._studies, image_id)
        numbers = self._studies.labels.names
        key = (image_id, path.stat().st_mtime_ns, label and label.checksum, tuple(numbers.items()), size)
        if (known := self._recall(key)) is not None:
            return known
        with self._turns:
            if (known := self._recall(key)) is not None:  # two asked for the same
                return known
            image = self._studies.image(image_id)
            mask = None if label is None else _by_name(label, image, numbers)
            file = io.BytesIO()
            Pillow.fromarray(overlay(image, mask, size)).save(file, "PNG")
        return self._keep(key, file.getvalue())

    @property
    def held(self) -> int:
        """Bytes of pictures."""
        with self._lock:
            return sum(map(len, self._kept.values()))

    def _recall(self, key: tuple[object, ...]) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[object, ...], png: bytes) -> bytes:
        with self._lock:
            self._kept[key] = png
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._capacity:
                self._kept.popitem(last=False)
        return png


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
