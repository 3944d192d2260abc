"""What networks computed of slices, kept within a number of bytes; the least recently used goes first.

A cache may be shared by several networks, and then they share its room: what stands in it is found by the weights that
made it, so that networks with one image encoder find each other's encoded slices and others never do.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from cachetools import LRUCache
from torch import Tensor


class FeatureCache:
    """Tensors, tuples of them and dataclasses of those, by key. Threads may share it.

    Args:
        room: bytes.
    """

    def __init__(self, room: int) -> None:
        self._entries: LRUCache[Hashable, Any] = LRUCache(room, getsizeof=size_of)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """What was kept, None for nothing."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Keep it, unless it is larger than the whole room."""
        with self._lock, suppress(ValueError):
            self._entries[key] = value

    @property
    def held(self) -> int:
        """Bytes."""
        return int(self._entries.currsize)


def size_of(value: Any) -> int:
    """Bytes of the tensors in a value."""
    if isinstance(value, Tensor):
        return value.element_size() * value.numel()
    if isinstance(value, tuple | list):
        return sum(map(size_of, value))
    if dataclasses.is_dataclass(value):
        return sum(size_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0
