"""Labels as DICOM SEG and back, so that every viewer and archive can read what was segmented here.

Written with highdicom: one binary segment a structure, on the frames of the series itself. Who made it is said twice:
in each segment's algorithm type and identification, and in the series' name, which is what a study list shows.
Read through the segments' geometry alone, so that what other programs wrote is understood too.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pydicom_seg
import SimpleITK
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from lib.config import VERSION
from lib.images import Image, ImageError

logger = logging.getLogger(__name__)

MAKER = "One-Prompt for MONAI Label"
FINAL_SERIES, AUTOMATIC_SERIES = "One-Prompt final label", "One-Prompt automatic mask"
ANATOMY = CodedConcept("123037004", "SCT", "Anatomical Structure")
OWN_CODES = "99ONEPROMPT"  # the scheme of structures that the dictionary does not know; 99 marks a private one
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])
_LONGEST_LO, _LONGEST_PARAMETER = 64, 1000  # characters
_SIDES = ("left", "right")


def write_seg(
    series: Sequence[Dataset],
    image: Image,
    label: np.ndarray,
    names: Mapping[str, int],
    *,
    by: SegmentAlgorithmTypeValues,
    provenance: Mapping[str, Any] | None = None,
) -> Segmentation:
    """A label map as DICOM SEG that refers to its series.

    Args:
        series: the series' instances, in any order; their pixels are not needed.
        image: the image that was made of them.
        label: integers (I, J, K) on the image's grid.
        names: {structure: value in the label}; a structure without a voxel gets no segment.
        by: AUTOMATIC (nobody looked), SEMIAUTOMATIC (a person accepted or corrected) or MANUAL.
        provenance: what is recorded about the making (weights, templates, ...), kept as the algorithm's parameters.

    Raises:
        ImageError: a label without a voxel, or a series whose frames are not the image's slices.
    """
    present = [name for name, value in sorted(names.items(), key=lambda item: item[1]) if (label == value).any()]
    if not present:
        raise ImageError("the label is empty: a DICOM SEG needs at least one segment")
    ordered, frames = _frames(series, image, label)
    pixels = np.stack([frames == names[name] for name in present], axis=-1).astype(np.uint8)
    kind = "AUTOMATIC" if by is SegmentAlgorithmTypeValues.AUTOMATIC else "FINAL"
    seg = Segmentation(
        source_images=ordered,
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, name, by, provenance or {}) for number, name in enumerate(present, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_series_number(ordered[0], kind),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name="One-Prompt",
        software_versions=VERSION,
        device_serial_number="none",
        content_label=kind,
        content_description=f"{', '.join(present)}"[:_LONGEST_LO],
        content_creator_name="One-Prompt^" if kind == "AUTOMATIC" else "Annotator^",
        omit_empty_frames=True,
    )
    seg.SeriesDescription = AUTOMATIC_SERIES if kind == "AUTOMATIC" else FINAL_SERIES
    return seg


def read_seg(seg: Dataset, image: Image) -> tuple[np.ndarray, dict[str, int]]:
    """A DICOM SEG of any maker as a label map on an image's grid.

    Returns:
        Integers (I, J, K), and {structure: value}. Where segments overlap the later one wins.

    Raises:
        ImageError: it cannot be read, or has no voxel on the image.
    """
    try:
        found = pydicom_seg.SegmentReader().read(seg)
        numbers = sorted(found.available_segments)
        planes = {number: _resampled(found.segment_image(number), image) for number in numbers}
    except Exception as error:  # pydicom-seg and pydicom raise whatever a broken file makes them stumble over
        raise ImageError(f"the segmentation {seg.get('SeriesInstanceUID', '')} cannot be read: {error}") from error
    label, names = np.zeros(image.array.shape, np.uint8), {}
    for value, number in enumerate(numbers, start=1):
        if (label[planes[number]] != 0).any():
            logger.warning("segments of %s overlap: where they do, the later one is taken", seg.SeriesInstanceUID)
        label[planes[number]] = value
        names[_name(found.segment_infos[number], number)] = value
    names = {name: value for name, value in names.items() if (label == value).any()}
    if not names:
        raise ImageError(f"the segmentation {seg.SeriesInstanceUID} has no voxel on the image it refers to")
    return label, names


def read_headers(folder: Path) -> list[Dataset]:
    """The instances of a series' folder, without their pixels."""
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir()) if path.is_file()]


def structure_code(name: str) -> CodedConcept:
    """The code of a structure: SNOMED CT's where the dictionary has its name (its side left out), else one of our own
    that follows from the name."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _SIDES]
    try:
        known = getattr(codes.SCT, "".join(word.capitalize() for word in words)) if words else None
    except (AttributeError, RuntimeError):  # none of that name, or several
        known = None
    if known is not None:
        return CodedConcept(known.value, known.scheme_designator, known.meaning)
    return CodedConcept(hashlib.sha256(name.encode()).hexdigest()[:12], OWN_CODES, name[:_LONGEST_LO])


def _description(
    number: int, name: str, by: SegmentAlgorithmTypeValues, provenance: Mapping[str, Any]
) -> SegmentDescription:
    algorithm = None
    if by is not SegmentAlgorithmTypeValues.MANUAL:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name="One-Prompt",
            family=codes.DCM.ArtificialIntelligence,  # type: ignore[union-attr, arg-type]  # made at run time
            version=VERSION,
            parameters={key: str(value)[:_LONGEST_PARAMETER] for key, value in provenance.items()} or None,
        )
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:_LONGEST_LO],
        segmented_property_category=ANATOMY,
        segmented_property_type=structure_code(name),
        algorithm_type=by,
        algorithm_identification=algorithm,
    )


def _frames(series: Sequence[Dataset], image: Image, label: np.ndarray) -> tuple[list[Dataset], np.ndarray]:
    """The instances, and the label's planes (frames, rows, columns) as each of them lies in space."""
    to_voxel = np.linalg.inv(RAS_TO_LPS @ image.affine)
    placed = {}
    for instance in series:
        if "ImagePositionPatient" not in instance or "FrameOfReferenceUID" not in instance:
            raise ImageError("the series does not say where its images lie: it can have no DICOM SEG")
        index = to_voxel @ [*map(float, instance.ImagePositionPatient), 1]
        k = round(float(index[2]))
        if np.abs(index[:3] - [0, 0, k]).max() > 0.01 or not 0 <= k < label.shape[2]:
            raise ImageError(
                f"instance {instance.SOPInstanceUID} lies at {np.round(index[:3], 2)} voxels of the image, where none "
                "of its slices begins: uneven or tilted series can have no DICOM SEG of this label"
            )
        placed[k] = instance
    if len(placed) != label.shape[2]:
        raise ImageError(f"the series has {len(placed)} places and the label {label.shape[2]} slices: they must agree")
    slices = sorted(placed)
    return [placed[k] for k in slices], np.stack([label[:, :, k].T for k in slices])


def _resampled(segment: SimpleITK.Image, image: Image) -> np.ndarray:
    """Which of the image's voxels have their middle in the segment."""
    lps = RAS_TO_LPS @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    grid = SimpleITK.Image([int(n) for n in image.array.shape], SimpleITK.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetOrigin(lps[:3, 3].tolist())
    grid.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    moved = SimpleITK.Resample(segment, grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    return SimpleITK.GetArrayFromImage(moved).T > 0


def _name(info: Dataset, number: int) -> str:
    name = str(info.get("SegmentLabel") or info.get("SegmentDescription") or "").strip()
    return name or f"segment_{number}"


def _series_number(instance: Dataset, kind: str) -> int:
    return 1000 * (2 if kind == "FINAL" else 1) + int(instance.get("SeriesNumber") or 0) % 1000
