"""What is recorded about labels, as objects: made of a record's JSON once, and anew where that is another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infers.label_records import LabelRecord


class KnownRecords:
    """The records of one study list. Threads may share it.

    A record's JSON is exchanged as a whole when something of it changes, so the same object says the same.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], tuple[Mapping[str, Any], LabelRecord]] = {}
        self._images: dict[str, tuple[dict[str, Mapping[str, Any]], Mapping[str, LabelRecord]]] = {}

    def of(self, image_id: str, tag: str, info: Mapping[str, Any]) -> LabelRecord:
        """The record of an image's label with this tag."""
        known = self._records.get((image_id, tag))
        if known is None or known[0] is not info:
            known = self._records[image_id, tag] = (info, LabelRecord.from_json(info))
        return known[1]

    def of_image(self, image_id: str, infos: dict[str, Mapping[str, Any]]) -> Mapping[str, LabelRecord]:
        """{tag: record} of an image's labels, from {tag: what is recorded}; the same object until something changes."""
        known = self._images.get(image_id)
        if known is None or known[0] != infos:
            records = {tag: self.of(image_id, tag, info) for tag, info in infos.items()}
            known = self._images[image_id] = (infos, records)
        return known[1]
