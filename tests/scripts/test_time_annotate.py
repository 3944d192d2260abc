"""What is reported of an annotator's waits, and the volumes that are waited for."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from scripts.time_annotate import waits, write_ct


def test_waits_are_reported_in_seconds_for_each_kind_of_answer() -> None:
    times = [{"what": "slice", "ms": 1000 * n} for n in range(1, 22)] + [{"what": "volume", "ms": 90000}]
    assert waits(times, "slice") == {"clicks": 21, "median": 11.0, "p95": 20.0}
    assert waits(times, "volume")["p95"] == 90.0
    assert waits(times, "all") == {}


def test_a_phantom_is_enlarged_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz", (160, 144, 20))
    volume = nibabel.load(tmp_path / "ct.nii.gz")
    array = np.asarray(volume.dataobj)
    assert (array.shape, array.dtype) == ((160, 144, 20), np.int16)
    assert array.min() < -900  # air
    np.testing.assert_allclose(volume.header.get_zooms(), (370 / 160, 370 / 144, 15), rtol=1e-5)
