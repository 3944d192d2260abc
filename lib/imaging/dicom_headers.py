"""What DICOM headers say of each frame: where it lies, how large its pixels are, and by which rule they are values.

Classic objects say so once an instance, enhanced ones in functional groups, for all frames or for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from lib.imaging.dicom_sizes import check_deflated
from lib.imaging.errors import ImageError

CENTIMETRES = 3  # an ultrasound region's physical unit


@dataclass(frozen=True, eq=False)
class Frame:
    """Where one frame lies: its instance and number in it, and LPS millimetres, where the header says them.

    Attributes:
        position: (3,) of the first pixel's middle, or None.
        order: sorts the frames at one place, which belong to several volumes: times, echoes, numbers.
        directions: (3, 2) unit vectors along a row of pixels (i) and down a column (j).
        spacing: mm from pixel to pixel along i and along j.
    """

    instance: int
    number: int
    position: np.ndarray | None
    directions: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    order: tuple[float, ...] = ()


def read_dataset(path: Path, **options: Any) -> Dataset:
    """A file as pydicom reads it, with pydicom's options, whether it begins as DICOM files do or, as older archives
    keep them, with the data set itself. Raises whatever pydicom raises on a broken one."""
    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError:
        if path.name.lower().endswith(".dcm"):
            with suppress(Exception):  # bytes of any kind
                dataset = pydicom.dcmread(path, force=True, **options)
                if dataset.get("SOPClassUID") and "Rows" in dataset:
                    return dataset
        raise


def read_header(path: Path) -> Dataset:
    """A file's header without its pixels. Raises ImageError."""
    check_deflated(path)
    try:
        return read_dataset(path, stop_before_pixels=True)
    except Exception as error:  # a broken header fails in as many ways as there are bytes
        raise ImageError(f"{path.name}: cannot be read as DICOM ({error}): send or copy it again") from error


def frames_of(number: int, header: Dataset) -> Iterator[Frame]:
    """The frames of one instance, the `number`-th of its series, in its own order. Raises ImageError."""
    size = (int(header.get("Columns", 0)), int(header.get("Rows", 0)))
    for frame in range(int(header.get("NumberOfFrames") or 1)):
        place, turn = _place_of(header, frame)
        known = place is not None and turn is not None
        position = np.array([float(x) for x in place]) if known else None
        directions = np.reshape([float(x) for x in turn], (2, 3)).T if known else np.eye(3)[:, :2]
        if not np.allclose(directions.T @ directions, np.eye(2), atol=0.01):
            raise ImageError(f"rows and columns must be at right angles, got the directions {turn}: send it again")
        yield Frame(number, frame, position, directions, _pixel_size(header, frame), size, _order(header, frame))


def _place_of(header: Dataset, frame: int) -> tuple[Any, Any]:
    """Position and orientation of a frame as the header says them, or None."""
    place = functional_group(header, frame, "PlanePositionSequence").get("ImagePositionPatient")
    turn = functional_group(header, frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
    if int(header.get("NumberOfFrames") or 1) == 1:  # with more, one position of the instance says nothing of a frame
        place = place or header.get("ImagePositionPatient") or None
        turn = turn or header.get("ImageOrientationPatient") or None
    return place, turn


def _order(header: Dataset, frame: int) -> tuple[float, ...]:
    content = functional_group(header, frame, "FrameContentSequence")
    keys = [(content.get(tag) or header.get(other)) for tag, other in (
        ("TemporalPositionIndex", "TemporalPositionIdentifier"),
        ("FrameAcquisitionNumber", "AcquisitionNumber"),
        ("", "EchoNumbers"),
        ("NominalCardiacTriggerDelayTime", "TriggerTime"),
        ("FrameAcquisitionDateTime", "AcquisitionTime"),
        ("", "InstanceNumber"),
    )]  # fmt: skip
    return (*map(_number, keys), float(frame))


def _number(value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def functional_group(header: Dataset, frame: int, name: str) -> Dataset:
    """A functional group of a frame of an enhanced object; an empty one where it has none."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*own[frame : frame + 1], *(header.get("SharedFunctionalGroupsSequence") or [])):
        if items := group.get(name):
            return items[0]
    return Dataset()


def _pixel_size(header: Dataset, frame: int) -> tuple[float, float]:
    measures = functional_group(header, frame, "PixelMeasuresSequence")
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    spacing = next((group[name].value for group in (measures, header) for name in names if group.get(name)), None)
    if spacing and len(spacing) == 2 and min(map(float, spacing)) > 0:
        return float(spacing[1]), float(spacing[0])  # the header has the distance between rows first
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES:
            return abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10
    return 1.0, 1.0
