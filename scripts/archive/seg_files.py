"""Masks as DICOM SEG objects, whose UIDs follow from their content: one made twice is the same object."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from infers.dicom.dicomseg import RECORDED, Maker, read_headers, write_seg
from lib.imaging.errors import ImageError
from lib.imaging.image import Image
from scripts.archive.outputs import MASKS
from scripts.archive.storage import Storage
from scripts.archive.studies import Study
from scripts.archive.work import Answer


@dataclass(frozen=True)
class SegFiles:
    """DICOM SEG objects in a folder, which refer to the series of the studies.

    Attributes:
        storage: the run's folder; objects lie in `masks`.
    """

    storage: Storage

    def write(self, study: Study, opened: Path, image: Image, answer: Answer, key: str) -> tuple[str, int]:
        """See `scripts.archive.work.Output`. Raises ImageError for a study that is no DICOM series."""
        data = seg_bytes(automatic_seg(opened, image, answer, key))
        name = f"{MASKS}/{study.id}.dcm"
        self.storage.write(name, data)
        return name, len(data)


def seg_bytes(seg: Dataset) -> bytes:
    """A DICOM file."""
    buffer = io.BytesIO()
    dcmwrite(buffer, seg, write_like_original=False)
    return buffer.getvalue()


def automatic_seg(opened: Path, image: Image, answer: Answer, key: str) -> Dataset:
    """A mask as DICOM SEG of the series in the folder `opened`. Raises ImageError where that holds none."""
    if not opened.is_dir():
        raise ImageError("a DICOM SEG refers to a DICOM series, and this study is none: write NIfTI (--form nifti)")
    headers: Sequence[Dataset] = read_headers(opened)
    made: Mapping[str, Any] = {name: value for name, value in answer.provenance.items() if name in RECORDED}
    seg = write_seg(headers, image, answer.mask, answer.labels, by=Maker.AUTOMATIC, provenance=made)
    seg.SeriesInstanceUID = _uid("series", key, str(headers[0].SeriesInstanceUID))
    seg.SOPInstanceUID = _uid("instance", key, str(headers[0].SeriesInstanceUID))
    if not getattr(seg, "file_meta", None):
        seg.file_meta = FileMetaDataset()
        seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
    return seg


def _uid(*parts: str) -> UID:
    """A UID that follows from some texts (2.25 and 128 bits, as ISO/IEC 9834-8 has it)."""
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(' '.join(parts).encode()).digest()[:16], 'big')}")
