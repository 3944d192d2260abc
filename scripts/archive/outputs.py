"""Masks as NIfTI files below the run's folder. DICOM SEG is in `scripts.archive.seg_files`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.imaging.errors import ImageError
from lib.imaging.image import Image
from lib.imaging.label_maps import whole_labels
from lib.imaging.nifti import compressed_nifti_bytes
from scripts.archive.storage import Storage
from scripts.archive.studies import Study
from scripts.archive.work import Answer

MASKS = "masks"
SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class NiftiFiles:
    """Label maps on the images' grids, in a folder.

    Attributes:
        storage: the run's folder; masks lie in `masks`, named as the studies.
    """

    storage: Storage

    def write(self, study: Study, opened: Path, image: Image, answer: Answer, key: str) -> tuple[str, int]:
        """See `scripts.archive.work.Output`: equal masks give equal files."""
        mask = whole_labels(answer.mask)
        if mask.shape != image.array.shape:
            raise ImageError(f"a mask must have its image's shape {image.array.shape}, got {mask.shape}")
        name = f"{MASKS}/{study.id}" + ("" if study.id.lower().endswith(SUFFIX) else SUFFIX)
        data = compressed_nifti_bytes(mask, image.affine, image.nifti_header)
        self.storage.write(name, data)
        return name, len(data)
