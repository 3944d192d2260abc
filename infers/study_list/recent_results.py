"""The last interactive results of each study, for a client that asks afterwards to have them saved.

In memory only, within a bound: what has to outlive the server is marked `use_as_template`.
"""

from __future__ import annotations

import threading

from cachetools import LRUCache

from lib.segmenters.contract import Prediction


class RecentResults:
    """The newest result for each structure of the studies that were prompted last.

    Args:
        capacity: bytes of masks to remember; the newest study's always are.
    """

    def __init__(self, capacity: int = 128 * 2**20) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[str, dict[str, Prediction]] = LRUCache(
            capacity, getsizeof=lambda results: min(_size(results), capacity)
        )

    def note(self, image_id: str, prediction: Prediction) -> None:
        """Remember a result; of a structure that was asked for before it is the newest."""
        with self._lock:
            known = self._kept.pop(image_id, {})
            for name in prediction.labels:
                known.pop(name, None)
            self._kept[image_id] = {**known, **dict.fromkeys(prediction.labels, prediction)}

    def of(self, image_id: str) -> list[Prediction]:
        """A study's results, the oldest first; empty where there are none."""
        with self._lock:
            return list(dict.fromkeys(self._kept.get(image_id, {}).values()))

    def forget(self, image_id: str) -> None:
        """They were saved, or are of no use any more."""
        with self._lock:
            self._kept.pop(image_id, None)


def _size(results: dict[str, Prediction]) -> int:
    return sum(prediction.mask.nbytes for prediction in dict.fromkeys(results.values()))
