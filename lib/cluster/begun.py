"""Which item an actor began last, noted at the head of the cluster, where the note outlives the actor.

The answer that an actor gave just before it died may be lost with it. Two items are without an answer then, and only
the note tells which of them it died of.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from lib.cluster.connection import load_ray

NAMESPACE = "oneprompt"  # of the head's keys, beside those of Ray's own libraries


@dataclass(frozen=True)
class BegunItem:
    """The note of one actor, the same in every process that holds a copy; picklable."""

    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def write(self, number: int) -> None:
        """Note this item; it is noted when this returns."""
        _head()._internal_kv_put(self.key, str(number), overwrite=True, namespace=NAMESPACE)

    def read(self) -> int | None:
        """The number of the item; None where none was begun."""
        value: bytes | None = _head()._internal_kv_get(self.key, namespace=NAMESPACE)
        return None if value is None else int(value)

    def remove(self) -> None:
        """Leave nothing at the head."""
        _head()._internal_kv_del(self.key, namespace=NAMESPACE)


def _head() -> Any:
    return load_ray().experimental.internal_kv
