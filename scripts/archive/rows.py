"""One row of the manifest, and its columns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SEGMENTED, LABELLED, FAILED, SET_ASIDE = "segmented", "labelled", "failed", "set aside"
STAGES = ("read", "encode", "decode", "quality", "assemble", "write")
MEASURED = frozenset({"seconds", "finished", "worker", *(f"{stage}_seconds" for stage in STAGES)})  # differ each time


@dataclass(frozen=True)
class Row:
    """A structure of a study, or a study that has no mask.

    Attributes:
        study: its id in the archive.
        state: `SEGMENTED`, `LABELLED` (it is a template), `FAILED` (the reason says what to do) or `SET_ASIDE` (it
            killed its workers).
        structure, value: name and value in the mask; empty and 0 for a study without a mask.
        voxels: of the structure.
        dice, low, high: predicted Dice with the interval that 9 of 10 lie in, 0 to 1; None where nobody knows.
        alarms: what is alarming, the most alarming first.
        reason: the one thing to know about the quality, or why there is no mask.
        mask: where it lies.
        key: of the content: the image's voxels and place, templates, weights and settings.
        templates: ids of those that were asked.
        weights: hash of the network's.
        size: bytes of the mask's file.
        seconds: all together; `*_seconds`: of each stage, of the first structure's row alone.
        worker: where it was made.
        finished: seconds since the epoch.
    """

    study: str
    state: str
    structure: str = ""
    value: int = 0
    voxels: int = 0
    dice: float | None = None
    low: float | None = None
    high: float | None = None
    alarms: Sequence[str] = ()
    reason: str = ""
    mask: str = ""
    key: str = ""
    templates: Sequence[str] = ()
    weights: str = ""
    size: int = 0
    seconds: float = 0.0
    read_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    quality_seconds: float = 0.0
    assemble_seconds: float = 0.0
    write_seconds: float = 0.0
    worker: str = ""
    finished: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """{column: value}."""
        return asdict(self)


COLUMNS = tuple(entry.name for entry in fields(Row))


@dataclass(frozen=True)
class Record:
    """What lies beside a mask, and says that it is whole: it is written last.

    Attributes:
        key: as in `Row`.
        labels: {structure: value}.
        voxels: {structure: how many}.
        provenance: what made it, with the predicted quality (`lib.quality.estimate`).
        mask: where it lies.
        size: bytes of its file.
        seconds: {stage: seconds}.
    """

    key: str
    labels: Mapping[str, int]
    voxels: Mapping[str, int]
    provenance: Mapping[str, Any]
    mask: str
    size: int
    seconds: Mapping[str, float] = field(default_factory=dict)

    def rows(self, study: str, worker: str, finished: float) -> list[Row]:
        """The rows of the study."""
        made = self.provenance
        rows = []
        for place, (name, value) in enumerate(sorted(self.labels.items(), key=lambda item: item[1])):
            low, high = made.get("quality_interval", {}).get(name, (None, None))
            stages = {f"{stage}_seconds": round(self.seconds.get(stage, 0.0), 4) for stage in STAGES if not place}
            rows.append(
                Row(
                    study,
                    SEGMENTED,
                    structure=name,
                    value=value,
                    voxels=self.voxels.get(name, 0),
                    dice=made.get("quality", {}).get(name),
                    low=low,
                    high=high,
                    alarms=list(made.get("alarms", {}).get(name, ())),
                    reason=made.get("quality_reason", {}).get(name, ""),
                    mask=self.mask,
                    key=self.key,
                    templates=list(made.get("templates", ())),
                    weights=str(made.get("weights", "")),
                    size=self.size,
                    seconds=round(sum(self.seconds.values()), 4) if not place else 0.0,
                    worker=worker,
                    finished=round(finished, 3),
                    **stages,
                )
            )
        return rows


def content_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of rows as {column: value}, whatever their order, without what is measured anew each time."""
    lines = sorted(
        repr([[name, row[name] if not isinstance(row[name], list | tuple) else list(row[name])] for name in COLUMNS
              if name not in MEASURED])
        for row in rows
    )  # fmt: skip
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
