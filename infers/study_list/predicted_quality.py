"""How good a mask is expected to be in this list: the one number for board, acceptance, job, strategies and checks.

A mask's record holds what was estimated when it was made. What the list's own corrections taught since
(`infers/study_list/corrections.py`) moves that: two masks may even change places. So nobody reads the record's numbers
but through here.
"""

from __future__ import annotations

from collections.abc import Mapping

from infers.label_records import Provenance
from lib.quality.calibration import Calibration
from lib.quality.estimate import Quality


class PredictedQuality:
    """What is expected of the masks of one study list; safe to share between threads."""

    def __init__(self) -> None:
        self._calibrations: Mapping[str, Calibration] = {}  # exchanged in one assignment
        self.version = 0  # grows when masks are judged otherwise than before

    def calibrate(self, calibrations: Mapping[str, Calibration]) -> None:
        """Read estimates from now on by these, structure by structure."""
        former, self._calibrations = self._calibrations, dict(calibrations)
        self.version += _cases(former) != _cases(calibrations)

    def of(self, made: Provenance) -> dict[str, Quality]:
        """What is expected today of a mask that was made so; of one without estimate what its record says itself."""
        known = self._calibrations
        return {name: one.calibrated(known[name]) if name in known else one for name, one in made.quality.items()}

    def lowest(self, made: Provenance | None) -> float | None:
        """The lowest expected Dice of a mask's structures, by which masks are ordered; None where none is expected."""
        numbers = [one.dice for one in self.of(made).values() if one.dice is not None] if made else []
        return min(numbers, default=None)

    def cases(self) -> dict[str, int]:
        """How many corrected cases the estimates of each structure rest on."""
        return {name: calibration.cases for name, calibration in self._calibrations.items()}


def _cases(calibrations: Mapping[str, Calibration]) -> dict[str, object]:
    return {name: (one.known, one.margin) for name, one in calibrations.items()}
