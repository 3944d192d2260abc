"""Labels as DICOM RTSTRUCT, for treatment planning systems: each structure's outline on each frame of the series.

An outline runs half-way between the voxels inside and those outside, so that every voxel's middle lies on its own side
of it. A hole is an outline inside another one, as readers with the even-odd rule take it.

Written on highdicom's base class. rt-utils was looked at: it draws through the outermost voxels' middles, which loses
half a voxel all around, and it brings OpenCV and a package that replaces Python's own `dataclasses`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import highdicom
import numpy as np
from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from skimage.measure import approximate_polygon, find_contours

from infers.dicom.dicomseg import AUTOMATIC_SERIES, FINAL_SERIES, MAKER, Maker, arranged_on, whole_number
from infers.dicom.headers import completed
from lib import VERSION
from lib.imaging.dicom_headers import Frame
from lib.imaging.images import Image, ImageError
from lib.imaging.pictures import colour_of

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STRAIGHT = 0.01  # voxels: points this near to a straight line between others are left out
_LONGEST_SH = _LONGEST_DS = 16  # characters
_COPIED = ("FrameOfReferenceUID", "PositionReferenceIndicator")


def write_rtstruct(
    series: Sequence[Dataset], image: Image, label: np.ndarray, names: Mapping[str, int], *, by: Maker
) -> Dataset:
    """A label map as an RT structure set that refers to its series.

    Args:
        series: the series' instances, in any order; their pixels are not needed.
        image: the image that was made of them.
        label: integers (I, J, K) on the image's grid.
        names: {structure: value in the label}; a structure without a voxel is left out.
        by: AUTOMATIC, SEMIAUTOMATIC or MANUAL.

    Raises:
        ImageError: a label without a voxel, or a series whose frames are not the image's slices.
    """
    present = [name for name, value in sorted(names.items(), key=lambda item: item[1]) if (label == value).any()]
    if not present:
        raise ImageError("the label is empty: an RTSTRUCT needs at least one structure")
    series = completed(series)
    frames = arranged_on(series, image).frames
    try:
        structure_set = _empty_structure_set(series, by)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # highdicom is strict about the series' headers
        raise ImageError(f"the series' headers do not allow an RTSTRUCT: {error}") from error
    numbered = list(enumerate(present, start=1))
    structure_set.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=series[0].FrameOfReferenceUID,
            ROIName=name,
            ROIGenerationAlgorithm=by.value,
        )
        for number, name in numbered
    ]
    structure_set.ROIContourSequence = [
        _item(
            ROIDisplayColor=list(colour_of(names[name])),
            ContourSequence=list(_contours(series, frames, label == names[name])),
            ReferencedROINumber=number,
        )
        for number, name in numbered
    ]
    structure_set.RTROIObservationsSequence = [
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        for number, _ in numbered
    ]
    return structure_set


def _empty_structure_set(series: Sequence[Dataset], by: Maker) -> SOPClass:
    """The structure set's header: whose it is, what it refers to, who made it and when."""
    first = series[0]
    automatic = by is Maker.AUTOMATIC
    structure_set = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=highdicom.UID(),
        series_number=3000 + whole_number(first.get("SeriesNumber")) % 1000,
        sop_instance_uid=highdicom.UID(),
        sop_class_uid=RT_STRUCTURE_SET,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MAKER,
        manufacturer_model_name="One-Prompt",
        software_versions=VERSION,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=AUTOMATIC_SERIES if automatic else FINAL_SERIES,
    )
    structure_set.copy_patient_and_study_information(first)
    for keyword in _COPIED:
        setattr(structure_set, keyword, first.get(keyword, ""))
    structure_set.OperatorsName = ""
    structure_set.StructureSetLabel = ("AUTOMATIC" if automatic else "FINAL")[:_LONGEST_SH]
    now = datetime.datetime.now()
    structure_set.StructureSetDate, structure_set.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    structure_set.ApprovalStatus = "UNAPPROVED"
    structure_set.ReferencedFrameOfReferenceSequence = [_referred(series)]
    return structure_set


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The closed outlines (N, 2) of a bool plane, in indices of voxel middles."""
    contours = find_contours(np.pad(mask.astype(float), 1), 0.5)  # padded: what touches the edge is closed too
    return [approximate_polygon(outline, _STRAIGHT)[:-1] - 1 for outline in contours]


def _contours(series: Sequence[Dataset], frames: Sequence[Frame], mask: np.ndarray) -> Iterator[Dataset]:
    for k, frame in enumerate(frames):
        digits = max(4, 4 - math.floor(math.log10(min(frame.spacing))))  # of mm: pixels may be of any size
        for outline in outlines(mask[:, :, k]):
            points = np.asarray(frame.position) + outline * frame.spacing @ frame.directions.T
            yield _item(
                ContourImageSequence=[_reference(series[frame.instance], frame.number)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.{digits}f}"[:_LONGEST_DS] for value in points.ravel()],
            )


def _referred(series: Sequence[Dataset]) -> Dataset:
    """Frame of reference, study, series and instances that the outlines lie on."""
    images = _item(
        SeriesInstanceUID=series[0].SeriesInstanceUID, ContourImageSequence=[_reference(one) for one in series]
    )
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # detached study management, retired, and still asked for here
        ReferencedSOPInstanceUID=series[0].StudyInstanceUID,
        RTReferencedSeriesSequence=[images],
    )
    return _item(FrameOfReferenceUID=series[0].FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference(instance: Dataset, frame: int | None = None) -> Dataset:
    referred = _item(ReferencedSOPClassUID=instance.SOPClassUID, ReferencedSOPInstanceUID=instance.SOPInstanceUID)
    if frame is not None and int(instance.get("NumberOfFrames") or 1) > 1:
        referred.ReferencedFrameNumber = frame + 1
    return referred


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
