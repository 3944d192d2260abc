"""What one DICOM file says of itself that tells it apart from others: a UID alone does not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError

from infers.errors import reason_of
from lib.imaging.dicom_headers import read_dataset
from lib.imaging.dicom_sizes import check_deflated
from lib.plain_json import plain_json

UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # as DICOM has them
DICOM_SUFFIXES = {".dcm", ".ima", ".dicom", ""}
NO_IMAGES = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC"}  # modalities without a grey image
SHOWN = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "StudyTime", "Modality")
FURTHER = (
    "PatientName", "SeriesNumber", "SeriesDescription", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns", "SOPClassUID",
)  # fmt: skip
DIRECTORY = "the table of contents of a DICOM medium: its files are looked at themselves"
SEGMENTATION = "a DICOM SEG is a label: put it under labels/final, named as its study"


class NoImage(Exception):
    """A file that is left out; the message says why."""


@dataclass(frozen=True)
class DicomFile:
    """One file of a series.

    Attributes:
        path: where it lies.
        info: what clients are shown.
        uid: its series' UID; empty where it is missing or none.
        series: what else its series is told apart by: study and patient.
        described: number and description of the series, for files without a UID.
        form: size and orientation of its images.
        instance: its UID and place: files that are equal in both are copies, or volumes of one place.
        place: where it begins, as text; empty where the file does not say.
    """

    path: Path
    info: dict[str, str]
    uid: str
    series: tuple[str, ...]
    described: tuple[str, ...]
    form: tuple[Any, ...]
    instance: tuple[str, ...]
    place: str

    @classmethod
    def read(cls, path: Path) -> DicomFile:
        """Read a file's header. Raises NoImage with the reason, and whatever pydicom raises on a broken one."""
        if not path.is_file():  # a pipe would never end
            raise OSError("it is no plain file")
        if path.name.upper() == "DICOMDIR":  # as the standard calls it
            raise NoImage(DIRECTORY)
        check_deflated(path)
        header = read_dataset(path, stop_before_pixels=True, specific_tags=[*SHOWN, *FURTHER])
        tags = {
            tag: plain_json(str(header.get(tag) if header.get(tag) is not None else "")) for tag in (*SHOWN, *FURTHER)
        }
        if tags["Modality"] == "SEG":
            raise NoImage(SEGMENTATION)
        if "Rows" not in header or tags["Modality"] in NO_IMAGES:
            raise NoImage(f"a DICOM object without an image ({tags['Modality'] or 'no modality'})")
        uid = tags["SeriesInstanceUID"] if UID.fullmatch(tags["SeriesInstanceUID"]) else ""
        turn = [round(float(x), 3) for x in header.get("ImageOrientationPatient") or ()]
        place = tags["ImagePositionPatient"]
        return cls(
            path,
            {tag: tags[tag] for tag in SHOWN},
            uid,
            (tags["StudyInstanceUID"], tags["PatientID"], tags["PatientName"]),
            (tags["Modality"], tags["SeriesNumber"], tags["SeriesDescription"]),
            (tags["Rows"], tags["Columns"], *turn),
            (tags["SOPInstanceUID"], place or tags["InstanceNumber"]),
            place,
        )


def may_be_dicom(name: str) -> bool:
    """Whether a file is taken for DICOM by its name."""
    suffix = Path(name).suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdigit()


def says_dicom(path: Path) -> bool:
    """Whether a file of any name says by its first bytes that it is DICOM."""
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def why_unreadable(path: Path, error: Exception) -> str | None:
    """What to tell of a file that pydicom stumbled over; None for one that never claimed to be DICOM."""
    if path.suffix and isinstance(error, InvalidDicomError):
        return "cannot be read as DICOM: it does not begin as DICOM does: copy it again, or rename it"
    if path.suffix or not isinstance(error, InvalidDicomError | OSError):
        return f"cannot be read as DICOM: {reason_of(error)[:200]}"
    return None
