"""Writes a volume as a DICOM series: one small, valid CT, MR or PET file for each slice.

Only what a viewer and MONAI Label need: identity, geometry, pixels. Everything in it is made up and reproducible.
"""

import shutil
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from lib.imaging.raw import LPS_TO_RAS

_STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
_INTERCEPT = {"CT": -1024, "MR": 0, "PT": 0}  # stored value + intercept = array value
_WINDOW = {"CT": (40, 400), "MR": (450, 900), "PT": (400, 800)}  # centre, width: what a viewer shows first
_DATE = "20240101"


def make_uid(*words: str) -> UID:
    """A valid UID that follows from the words: the same words, the same UID."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(words)).int}")


def write_series(
    folder: Path, array: NDArray[np.int16], affine: NDArray[np.float64], *, uid: str, patient: str, modality: str
) -> None:
    """Writes `folder`/0001.dcm ... in slice order; a folder of that name is replaced.

    array: (I, J, K), i along a row of pixels, j down its columns, k through the slices; 0 or more for MR and PT, -1024
    or more for CT. affine: voxel index to RAS mm, axes at right angles. uid: the SeriesInstanceUID, from which the
    other UIDs follow. modality: CT, MR or PT. Raises ValueError for anything else.
    """
    if modality not in _STORAGE:
        raise ValueError(f"modality must be one of {', '.join(_STORAGE)}, got {modality!r}")
    if array.min() < _INTERCEPT[modality]:
        raise ValueError(f"{modality} values must be {_INTERCEPT[modality]} or more, got {array.min()}")
    lps = LPS_TO_RAS @ affine
    if np.linalg.det(lps[:3, :3]) < 0:
        # Readers order slices along the normal of rows and columns, so k has to run that way too
        raise ValueError("the axes i, j, k must be right-handed (such as LPS or RAS), or readers reverse the slices")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for k in range(array.shape[2]):
        dataset = _empty_slice(modality, make_uid(uid, "slice", str(k)))
        _describe(dataset, uid, patient, modality, k)
        _place(dataset, lps, k)
        _fill(dataset, array[:, :, k], modality)
        dataset.save_as(folder / f"{k + 1:04d}.dcm", write_like_original=False)


def _empty_slice(modality: str, uid: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = _STORAGE[modality], uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    return dataset


def _describe(dataset: Dataset, uid: str, patient: str, modality: str, k: int) -> None:
    dataset.PatientName, dataset.PatientID = f"Phantom^{patient}", patient
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyInstanceUID = make_uid(uid, "study")
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = _DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "000000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.StudyDescription = dataset.SeriesDescription = "One-Prompt phantom"
    dataset.Modality, dataset.BodyPartExamined = modality, "ABDOMEN"
    dataset.SeriesInstanceUID = uid
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 1, k + 1, 1
    dataset.FrameOfReferenceUID = make_uid(uid, "frame")
    dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "HFS"
    dataset.Manufacturer = "One-Prompt for MONAI Label"
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    if modality == "CT":
        dataset.KVP = ""
    elif modality == "PT":
        dataset.Units, dataset.CountsSource, dataset.SeriesType = "CNTS", "EMISSION", ["STATIC", "IMAGE"]
        dataset.DecayCorrection, dataset.CorrectedImage, dataset.CollimatorType = "NONE", "DTIM", "NONE"
    else:
        dataset.ScanningSequence, dataset.SequenceVariant = "SE", "NONE"
        dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
        dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "90", "3000", "1"


def _place(dataset: Dataset, lps: NDArray[np.float64], k: int) -> None:
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    position = lps[:3, :3] @ [0, 0, k] + lps[:3, 3]
    dataset.ImagePositionPatient = [_decimal(v) for v in position]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]  # between rows, then between columns
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(spacing[2])
    dataset.SliceLocation = _decimal(position @ np.cross(directions[:, 0], directions[:, 1]))


def _fill(dataset: Dataset, plane: NDArray[np.int16], modality: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = plane.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.WindowCenter, dataset.WindowWidth = _WINDOW[modality]
    if modality != "MR":  # an MR image has no rescaling
        dataset.RescaleIntercept, dataset.RescaleSlope = _INTERCEPT[modality], 1
    if modality == "CT":
        dataset.RescaleType = "HU"
    stored = plane.astype(np.int32) - _INTERCEPT[modality]
    dataset.PixelData = stored.T.astype("<u2").tobytes()


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    return f"{value:.10f}"[:16] if abs(value) > 1e-9 else "0"
