"""DICOM SEG of any maker as a label map on an image's grid.

Read frame by frame where the frames are the image's own slices, else through the segments' geometry alone. Segments
may overlap there; a label map holds one structure a voxel, so the largest is painted first and a lesion stays visible
in its organ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pydicom_seg
from pydicom.dataset import Dataset

from lib.imaging.dicom import arrange
from lib.imaging.dicom_headers import frames_of, functional_group
from lib.imaging.errors import ImageError
from lib.imaging.image import Image
from lib.imaging.label_maps import painted
from lib.imaging.raw import LPS_TO_RAS, SAME_PLACE, sitk

logger = logging.getLogger(__name__)

SAME_SIDE = 1e-3  # of a voxel's shortest side


def is_seg(header: Dataset) -> bool:
    """Whether an instance is a segmentation."""
    return header.get("Modality") == "SEG" or "SegmentSequence" in header


def read_seg(seg: Dataset, image: Image, series: Sequence[Dataset] = ()) -> tuple[np.ndarray, dict[str, int]]:
    """A DICOM SEG of any maker as a label map on an image's grid.

    Args:
        seg: the segmentation.
        image: the image.
        series: headers of the instances that the image was made of, where its slices do not lie as evenly as its
            affine says and it does not say so itself.

    Returns:
        Integers (I, J, K), and {structure: value}. Where segments overlap the smaller one is kept.

    Raises:
        ImageError: it cannot be read, or has no voxel on the image.
    """
    try:
        masks = _own_frames(seg, image, series)
        masks = _by_geometry(seg, image) if masks is None else masks
    except Exception as error:  # pydicom-seg and pydicom raise whatever a broken file makes them stumble over
        raise ImageError(f"the segmentation {seg.get('SeriesInstanceUID', '')} cannot be read: {error}") from error
    label = painted(list(masks.values())) if masks else np.zeros(image.array.shape, np.uint8)
    names = {name: value for value, name in enumerate(masks, start=1) if (label == value).any()}
    if not names:
        raise ImageError(
            f"the segmentation {seg.SeriesInstanceUID} has no voxel on the image it refers to: it was drawn on another "
            "series, or says so wrongly; store it again with the right reference"
        )
    if sum(int(mask.sum()) for mask in masks.values()) > np.count_nonzero(label):
        logger.warning("segments of %s overlap: where they do, the smaller one is kept", seg.SeriesInstanceUID)
    return label, names


def _own_frames(seg: Dataset, image: Image, series: Sequence[Dataset]) -> dict[str, np.ndarray] | None:
    """{structure: mask} of a SEG whose frames are slices of the image; None where they are not."""
    if image.array.ndim != 3 or (int(seg.Columns), int(seg.Rows)) != image.array.shape[:2]:
        return None
    arranged = arrange(series) if series else None
    lps = LPS_TO_RAS @ image.affine
    places = (
        lps[:3, 3] + np.arange(image.array.shape[2])[:, None] * lps[:3, 2] if image.planes is None else image.planes
    )
    if arranged is not None and arranged.placed and len(arranged.frames) == len(places):
        lps, places = arranged.affine, arranged.planes  # a file of the series may be read without its tilt
    segments = {int(item.SegmentNumber): _name(item, int(item.SegmentNumber)) for item in seg.SegmentSequence}
    masks = {name: np.zeros(image.array.shape, bool) for name in segments.values()}
    near = SAME_PLACE * min(image.spacing)
    pixels = np.atleast_3d(seg.pixel_array) if seg.get("NumberOfFrames", 1) != 1 else seg.pixel_array[None]
    for frame, plane in zip(frames_of(0, seg), pixels, strict=True):
        if frame.position is None or not np.allclose(
            frame.directions * frame.spacing, lps[:3, :2], rtol=0, atol=SAME_SIDE * min(image.spacing)
        ):
            return None
        away = np.linalg.norm(places - frame.position, axis=1)
        if away.min() > near:
            return None
        k = int(away.argmin())
        for number in _numbers(seg, frame.number, segments):
            masks[segments[number]][:, :, k] |= _is_set(seg, plane, number).T
    return masks


def _numbers(seg: Dataset, frame: int, segments: Mapping[int, str]) -> list[int]:
    """The segments that a frame speaks of: one, or all in a label map."""
    if seg.get("SegmentationType") == "LABELMAP":
        return list(segments)
    return [int(functional_group(seg, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)]


def _is_set(seg: Dataset, plane: np.ndarray, number: int) -> np.ndarray:
    if seg.get("SegmentationType") == "LABELMAP":
        return plane == number
    if seg.get("SegmentationType") == "FRACTIONAL":
        return plane * 2.0 >= float(seg.MaximumFractionalValue)
    return plane > 0


def _by_geometry(seg: Dataset, image: Image) -> dict[str, np.ndarray]:
    """{structure: mask} of a SEG with frames of its own."""
    segmentation = pydicom_seg.SegmentReader().read(seg)
    masks: dict[str, np.ndarray] = {}
    for number in sorted(segmentation.available_segments):
        name = _name(segmentation.segment_infos[number], number)
        mask = _resampled(segmentation.segment_image(number), image)
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _resampled(segment: Any, image: Image) -> np.ndarray:
    """Which of the image's voxels have their middle in the segment."""
    lps = LPS_TO_RAS @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    grid = sitk.Image([int(n) for n in image.array.shape], sitk.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetOrigin(lps[:3, 3].tolist())
    grid.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    moved = sitk.Resample(segment, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(moved).T > 0


def _name(info: Dataset, number: int) -> str:
    name = str(info.get("SegmentLabel") or info.get("SegmentDescription") or "").strip()
    return name or f"segment_{number}"
