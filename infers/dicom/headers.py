"""A series' headers as strict libraries want them: what DICOM allows to be empty is there, and empty or valid.

De-identification removes elements that DICOM wants present (type 2), or puts words where dates are meant, and highdicom
then makes nothing at all. Elements that must have a value (type 1) are not invented: what refers to a series needs its
UIDs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM

from lib.imaging.images import ImageError

logger = logging.getLogger(__name__)

MAY_BE_EMPTY = (  # type 2 of the modules Patient, General Study, General Series, General Equipment and Image Plane
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "SeriesNumber", "InstanceNumber", "Manufacturer", "SliceThickness",
)  # fmt: skip
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
SEXES = ("M", "F", "O")
_logged: set[str] = set()  # series whose repairs were logged


def completed(series: Sequence[Dataset]) -> list[Dataset]:
    """Copies of a series' headers with every element of `MAY_BE_EMPTY`, empty where it is absent or not valid; what
    was filled is logged once a series.

    Raises:
        ImageError: an element of `NEEDED` is missing or empty, or instances share their UID.
    """
    lacking = sorted({name for header in series for name in NEEDED if not header.get(name)})
    if lacking:
        raise ImageError(
            f"the series has no {', '.join(lacking)}, and what is made of it must refer to it by that: send it with it"
        )
    if len({str(header.SOPInstanceUID) for header in series}) < len(series):
        raise ImageError(
            "instances of the series share a SOPInstanceUID, and what is made of it must refer to each: send it again "
            "with a UID for each"
        )
    filled: dict[str, str] = {}
    headers = []
    for header in series:
        wrong = {name: why for name in MAY_BE_EMPTY if (why := _what_is_wrong(header, name))}
        headers.append(with_elements(header, dict.fromkeys(wrong)) if wrong else header)
        filled |= wrong
    uid = str(series[0].SeriesInstanceUID) if series else ""
    if filled and uid not in _logged:
        _logged.add(uid)
        names = ", ".join(f"{name} ({filled[name]})" for name in sorted(filled))
        logger.info("series %s: taken as empty: %s", uid, names)
    return headers


def with_elements(header: Dataset, values: Mapping[str, Any]) -> Dataset:
    """A copy of a header with other values; copies of pydicom's share their elements, so each is made anew."""
    header = copy.copy(header)
    for name, value in values.items():
        if name in header:
            delattr(header, name)
        setattr(header, name, value)
    return header


def _what_is_wrong(header: Dataset, name: str) -> str:
    """Why an element counts as empty; empty where it does not."""
    if name not in header:
        return "absent"
    try:
        element = header[name]
        if isinstance(element.value, MultiValue):
            return "not valid"
        value = str(element.value or "")
        if value and element.VR in _VALID:
            _VALID[element.VR](value)
    except (TypeError, ValueError, OverflowError):  # pydicom reads numbers when they are asked for
        return "not valid"
    return "not valid" if name == "PatientSex" and value not in ("", *SEXES) else ""


_VALID: dict[str, Callable[[str], Any]] = {"DA": DA, "TM": TM}
