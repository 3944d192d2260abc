"""What a whole archive would take, from some studies of it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.archive.rows import SEGMENTED, STAGES
from scripts.archive.studies import Source, Study


@dataclass(frozen=True)
class Sample:
    """Some studies of a source."""

    source: Source
    chosen: Sequence[Study]

    @property
    def address(self) -> str:
        """Of the source."""
        return self.source.address

    def studies(self) -> Iterator[Study]:
        """The chosen ones."""
        return iter(self.chosen)

    def opened(self, study: Study) -> AbstractContextManager[Path]:
        """As the source opens it."""
        return self.source.opened(study)


def sample(source: Source, count: int) -> tuple[Sample, int]:
    """So many studies, each with the same chance, and how many there are; the archive is listed once, in bounded
    memory (reservoir sampling: Vitter, ACM TOMS 11(1), 1985, algorithm R)."""
    rng = random.Random(0)
    reservoir: list[Study] = []
    total = 0
    for total, study in enumerate(source.studies(), start=1):
        if len(reservoir) < count:
            reservoir.append(study)
        elif (place := rng.randrange(total)) < count:
            reservoir[place] = study
    return Sample(source, reservoir), total


def forecast(rows: Sequence[Mapping[str, Any]], total: int, workers: int, seconds: float) -> str:
    """Lines that say what `total` studies take on so many workers, with bounds for 9 of 10 such samples.

    Args:
        rows: of the sample (`scripts.archive.rows.Row`).
        seconds: from when workers were ready until the last study of the sample was done.
    """
    firsts = {row["study"]: row for row in rows if row["state"] == SEGMENTED and row["seconds"] > 0}
    studies = {row["study"] for row in rows}
    if not firsts:
        reasons = sorted({row["reason"] for row in rows})
        return f"no study of the sample was segmented, so nothing is predicted: {'; '.join(reasons[:3])}"
    each = [row["seconds"] for row in firsts.values()]
    mean, error = _mean_and_error(each)
    size, size_error = _mean_and_error([float(row["size"]) for row in firsts.values()])
    share = len(firsts) / len(studies)
    busy = sum(each) / (seconds * workers) if seconds else 1.0
    lines = [f"{len(studies)} of {total} studies, {len(firsts)} of them segmented, {workers} workers"]
    for stage in STAGES:
        lines.append(f"  {stage:9s} {_mean_and_error([row[f'{stage}_seconds'] for row in firsts.values()])[0]:8.3f} s")
    hours = [total * share * bound / workers / 3600 for bound in (mean, mean - error, mean + error)]
    gigabytes = [total * share * bound / 2**30 for bound in (size, size - size_error, size + size_error)]
    lines += [
        f"  together  {mean:8.3f} s a study and worker; workers were at work {100 * min(busy, 1):.0f} % of the time",
        f"all {total}: {hours[0]:.2f} hours ({max(hours[1], 0):.2f} to {hours[2]:.2f}) on {workers} workers, "
        f"{gigabytes[0]:.3f} GB of masks ({max(gigabytes[1], 0):.3f} to {gigabytes[2]:.3f})",
    ]
    return "\n".join(lines)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and 1.645 times its standard error."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, 1.645 * spread / math.sqrt(len(values))
