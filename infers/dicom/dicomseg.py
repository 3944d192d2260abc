"""Labels as DICOM SEG, so that every viewer and archive can read what was segmented here.

Written with highdicom: one binary segment a structure, on the frames of the series itself, so that tilted and uneven
series are exact. Who made it is said twice: in each segment's algorithm type and identification, and in the series'
name, which is what a study list shows. Read by `lib.imaging.dicom_seg`.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from infers.dicom.headers import completed, with_elements
from lib import VERSION
from lib.imaging.dicom import Arrangement, arrange, without_repeats
from lib.imaging.dicom_headers import Frame, functional_group, read_header
from lib.imaging.formats import is_dicom
from lib.imaging.images import Image, ImageError
from lib.imaging.raw import LPS_TO_RAS, SAME_PLACE

logger = logging.getLogger(__name__)

Maker = SegmentAlgorithmTypeValues  # AUTOMATIC, SEMIAUTOMATIC, MANUAL
MAKER = "One-Prompt for MONAI Label"
FINAL_SERIES, AUTOMATIC_SERIES = "One-Prompt final label", "One-Prompt automatic mask"
ANATOMY = CodedConcept("123037004", "SCT", "Anatomical Structure")
OWN_CODES = "99ONEPROMPT"  # the scheme of structures that the dictionary does not know; 99 marks a private one
# What of a mask's record belongs in an archive: how it was made, not how long it took or where it lies
RECORDED = (
    *("model", "weights", "specialist", "network", "version", "templates", "prompt_types", "quality"),
    *("tasks", "licence"),
)
IN_FRAMES = ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
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
    ordered = sorted(names.items(), key=lambda item: item[1])
    masks = {name: label == value for name, value in ordered}
    return write_segments(series, image, masks, by=by, provenance=provenance)


def write_segments(
    series: Sequence[Dataset],
    image: Image,
    masks: Mapping[str, np.ndarray],
    *,
    by: SegmentAlgorithmTypeValues,
    provenance: Mapping[str, Any] | None = None,
) -> Segmentation:
    """As `write_seg`, from a bool array (I, J, K) for each structure; they may overlap."""
    present = {name: mask for name, mask in masks.items() if mask.any()}
    if not present:
        raise ImageError("the label is empty: a DICOM SEG needs at least one segment")
    series = completed(series)
    arranged = arranged_on(series, image)
    ordered = _as_single_images(series, arranged)
    # highdicom wants (frames, rows, columns, segments), frames as the instances are given
    pixels = np.stack([mask.T for mask in present.values()], axis=-1).astype(np.uint8)
    kind = "AUTOMATIC" if by is SegmentAlgorithmTypeValues.AUTOMATIC else "FINAL"
    try:
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # highdicom is strict about the series' headers
        raise ImageError(f"the series' headers do not allow a DICOM SEG: {error}") from error
    seg.SeriesDescription = AUTOMATIC_SERIES if kind == "AUTOMATIC" else FINAL_SERIES
    for name in LOSSY:  # highdicom wants all of them, and archives keep but the first
        if series[0].get(name):
            setattr(seg, name, series[0][name].value)
    uids = [str(single.SOPInstanceUID) for single in ordered]
    _refer(seg, dict(zip(uids, arranged.frames, strict=True)), series)
    return seg


def read_headers(folder: Path) -> list[Dataset]:
    """The instances of a series' folder, each once, without their pixels."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    return [header for _, header in without_repeats([(path, read_header(path)) for path in files])]


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


def arranged_on(series: Sequence[Dataset], image: Image) -> Arrangement:
    """A series' frames in the order of the image's slices. Raises ImageError where it is not this image's series."""
    arranged = arrange(series)
    if not arranged.placed:
        raise ImageError("the series does not say where its images lie: it can have no DICOM SEG or RTSTRUCT")
    if any(not instance.get("FrameOfReferenceUID") for instance in series):
        raise ImageError(
            "the series has no FrameOfReferenceUID, which a DICOM SEG or RTSTRUCT must repeat: send it with one"
        )
    slices = image.array.shape[2]
    if len(arranged.frames) != slices:
        raise ImageError(f"the series has {len(arranged.frames)} images and the label {slices} slices: they must agree")
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, slices - 1)])
    readings = (image.affine, *image.others)  # a tilted series' NIfTI lies elsewhere for readers that know no shear
    there = [np.linalg.inv(reading) @ LPS_TO_RAS @ arranged.affine for reading in readings]
    if min(np.abs(corners @ (one - np.eye(4)).T).max() for one in there) > SAME_PLACE:
        raise ImageError(
            "the series does not lie where the label lies: make the label on this series, not on a copy with another "
            "geometry"
        )
    return arranged


def _as_single_images(series: Sequence[Dataset], arranged: Arrangement) -> list[Dataset]:
    """Each frame as an image of its own, the one kind of series that highdicom takes in every form that there is.

    Enhanced objects become headers with a UID for each of their frames, which `_refer` puts right.
    """
    distance = float(np.linalg.norm(arranged.affine[:3, 2]))
    singles = []
    for frame in arranged.frames:
        header = series[frame.instance]
        measures = functional_group(header, frame.number, "PixelMeasuresSequence")
        # highdicom writes none of a slice's sizes without its thickness
        values: dict[str, Any] = {
            "SliceThickness": measures.get("SliceThickness") or header.get("SliceThickness") or _decimals([distance])[0]
        }
        if "NumberOfFrames" in header:
            values |= {
                "SOPInstanceUID": highdicom.UID(),
                "ImagePositionPatient": _decimals(np.asarray(frame.position)),
                "ImageOrientationPatient": _decimals(frame.directions.T.ravel()),
                "PixelSpacing": _decimals(frame.spacing[::-1]),
                "SpacingBetweenSlices": measures.get("SpacingBetweenSlices") or header.get("SpacingBetweenSlices"),
            }
        single = with_elements(header, values)
        for name in (*IN_FRAMES, *LOSSY):
            if name in single:
                delattr(single, name)
        singles.append(single)
    return singles


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _refer(seg: Segmentation, frames: Mapping[str, Frame], series: Sequence[Dataset]) -> None:
    """Have a segmentation refer to the instances, and frames of them, that its images were made of.

    Args:
        frames: {UID that it refers to: frame of the series}.
    """
    for group in seg.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                frame = frames[str(source.ReferencedSOPInstanceUID)]
                header = series[frame.instance]
                source.ReferencedSOPInstanceUID = header.SOPInstanceUID
                if int(header.get("NumberOfFrames") or 1) > 1:
                    source.ReferencedFrameNumber = frame.number + 1
    instances: list[Dataset] = []
    for number in sorted({frame.instance for frame in frames.values()}):
        instance = Dataset()
        instance.ReferencedSOPClassUID = series[number].SOPClassUID
        instance.ReferencedSOPInstanceUID = series[number].SOPInstanceUID
        instances.append(instance)
    seg.SourceImageSequence = instances
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = copy.deepcopy(instances)


def whole_number(value: Any) -> int:
    """A number of a header, 0 where it is none."""
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return 0


def _series_number(instance: Dataset, kind: str) -> int:
    return 1000 * (2 if kind == "FINAL" else 1) + whole_number(instance.get("SeriesNumber")) % 1000
