"""A series' headers as strict libraries want them: what DICOM allows to be empty is there, and empty.

De-identification removes elements that DICOM wants present (type 2), and highdicom then makes nothing at all. Elements
that must have a value (type 1) are not invented: what refers to a series needs its UIDs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

from pydicom.dataset import Dataset

from lib.imaging.images import ImageError

logger = logging.getLogger(__name__)

MAY_BE_EMPTY = (  # type 2 of the modules Patient, General Study, General Series, General Equipment and Image Plane
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "SeriesNumber", "InstanceNumber", "Manufacturer", "SliceThickness",
)  # fmt: skip
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_logged: set[str] = set()  # series whose repairs were logged


def completed(series: Sequence[Dataset]) -> list[Dataset]:
    """Copies of a series' headers with every element of `MAY_BE_EMPTY`; what was filled is logged once a series.

    Raises:
        ImageError: an element of `NEEDED` is missing or empty.
    """
    lacking = sorted({name for header in series for name in NEEDED if not header.get(name)})
    if lacking:
        raise ImageError(
            f"the series has no {', '.join(lacking)}, and what is made of it must refer to it by that: send it with it"
        )
    filled: set[str] = set()
    headers = []
    for header in series:
        absent = [name for name in MAY_BE_EMPTY if name not in header]
        filled.update(absent)
        header = copy.copy(header) if absent else header
        for name in absent:
            setattr(header, name, None)
        headers.append(header)
    uid = str(series[0].SeriesInstanceUID) if series else ""
    if filled and uid not in _logged:
        _logged.add(uid)
        logger.info("series %s: taken as empty, for it is absent: %s", uid, ", ".join(sorted(filled)))
    return headers
