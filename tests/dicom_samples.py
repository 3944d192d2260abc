"""Small DICOM series of every kind that a study list may hold, made from one volume."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import MPEG2MPML, UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from scripts.phantoms.dicom_series import make_uid, write_series

SHAPE = (12, 10, 6)
FRAME_ORDER = (3, 0, 5, 1, 4, 2)  # which slice each frame of `enhanced` is
AXIAL = np.diag([-1.5, -0.8, 4.0, 1.0])  # voxel index to RAS, as patients are scanned
CORONAL = np.array([[-1.5, 0, 0, 3], [0, 0, -4.0, -7], [0, -0.8, 0, 9], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, 4.0, 3], [-1.5, 0, 0, -7], [0, -0.8, 0, 9], [0, 0, 0, 1]])
VIDEO = MPEG2MPML  # what no library here unpacks
# Values 20 i + 3 j in JPEG-LS, by dcmtk: nothing that is installed here packs it
_JPEG_LS = (
    "/9j/9wALEAAKAAwBAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAKE8J4SxHCeEsRxDH47G4DQGgJAUBQCAQCAQEBAaA0BAQEBAQECBAgQEgJAg"
    "QIECBAgQIEBQFAgQQQQQQQQQFAUEEEEEEEEEEAgEEEEEEEEEEEAgEEEEEIQhCEAgEIQhCEIQhAIBCEIQhCEIQAD//9k="
)


def oblique() -> np.ndarray:
    """Voxel index to RAS: turned about two axes, with three different spacings."""
    a, b = np.radians([12, -9])
    turn = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    tilt = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) @ tilt @ np.diag([-1.5, -0.8, 4.0])
    affine[:3, 3] = 31, -12, 7
    return affine


def volume(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Voxel values that are all different along each axis."""
    i, j, k = np.indices(shape)
    return (20 * i + 3 * j + 40 * k).astype(np.int16)


def write(
    folder: Path, affine: np.ndarray = AXIAL, modality: str = "MR", uid: str = "1.2.3", patient: str = "P"
) -> Path:
    """A series of `volume()`."""
    write_series(folder, volume(), affine, uid=uid, patient=patient, modality=modality)
    return folder


def change(folder: Path, edit: Callable[[Dataset, int], None]) -> Path:
    """Edit each instance of a series; `edit` gets it with its number in slice order."""
    for k, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        edit(dataset, k)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(path, write_like_original=False)
    return folder


def tilted(folder: Path, shift: float = 0.7) -> Path:
    """A CT with a tilted gantry: each slice begins `shift` mm further down the patient's back."""

    def edit(dataset: Dataset, k: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, float(y) + shift * k, z]
        dataset.GantryDetectorTilt = "9.9"

    return change(write(folder, modality="CT"), edit)


def incomplete(folder: Path, missing: int = 2) -> Path:
    """An MR series of which one slice was never sent."""
    sorted(write(folder).iterdir())[missing].unlink()
    return folder


def enhanced(
    folder: Path, affine: np.ndarray = AXIAL, uid: str = "1.2.3", order: tuple[int, ...] = FRAME_ORDER
) -> Path:
    """One enhanced MR object; by default its frames come in another order than they lie in."""
    write(folder, affine, uid=uid)
    paths = sorted(folder.iterdir())
    slices = [pydicom.dcmread(path) for path in paths]
    first = slices[0]
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4.1")
    first.NumberOfFrames = len(order)
    frames = []
    for k in order:
        frame, place, plane = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = slices[k].ImagePositionPatient
        plane.ImageOrientationPatient = first.ImageOrientationPatient
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = DicomSequence([place]), DicomSequence([plane])
        frames.append(frame)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices, measures.SliceThickness = (
        first.PixelSpacing, first.SpacingBetweenSlices, first.SliceThickness)  # fmt: skip
    shared.PixelMeasuresSequence = DicomSequence([measures])
    first.SharedFunctionalGroupsSequence = DicomSequence([shared])
    first.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    first.PixelData = b"".join(slices[k].PixelData for k in order)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceLocation"):
        delattr(first, name)
    for path in paths[1:]:
        path.unlink()
    first.save_as(paths[0], write_like_original=False)
    return folder


def in_several_files(folder: Path, parts: Sequence[Sequence[int]] = ((0, 1), (2,), (3, 4, 5))) -> Path:
    """An enhanced object's frames, shared out among several files of its series."""
    (path,) = folder.iterdir()
    whole = pydicom.dcmread(path)
    size = len(whole.PixelData) // int(whole.NumberOfFrames)
    for number, frames in enumerate(parts, start=1):
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        part.NumberOfFrames, part.InstanceNumber = len(frames), number
        groups = whole.PerFrameFunctionalGroupsSequence
        part.PerFrameFunctionalGroupsSequence = DicomSequence([groups[frame] for frame in frames])
        part.PixelData = b"".join(whole.PixelData[frame * size : (frame + 1) * size] for frame in frames)
        part.save_as(folder / f"part{number}.dcm")
    path.unlink()
    return folder


def single(folder: Path, modality: str, uid: str = "1.2.3", **said: object) -> Path:
    """One image that says nothing of a place: a radiograph, or ultrasound."""
    write(folder, uid=uid)
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()

    def edit(dataset: Dataset, k: int) -> None:
        dataset.Modality = modality
        dataset.SOPClassUID = UID(_STORAGE[modality])
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID",
                     "SliceThickness", "SpacingBetweenSlices", "SliceLocation"):  # fmt: skip
            delattr(dataset, name)
        for name, value in said.items():
            setattr(dataset, name, value)

    return change(folder, edit)


_STORAGE = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}


def colour_ultrasound(folder: Path) -> Path:
    """A grey picture in colours, with its scale in centimetres."""
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.05, 0.04
    single(folder, "US", SequenceOfUltrasoundRegions=DicomSequence([region]))

    def edit(dataset: Dataset, k: int) -> None:
        grey = (volume()[:, :, 0] // 2).T.astype(np.uint8)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = np.repeat(grey[..., None], 3, axis=2).tobytes()

    return change(folder, edit)


def cine(folder: Path) -> Path:
    """An ultrasound loop: frames without a place."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
        dataset.NumberOfFrames = SHAPE[2]
        dataset.PixelData = volume().T.astype("<u2").tobytes()

    return change(single(folder, "US"), edit)


def packed(folder: Path, syntax: UID) -> Path:
    """An MR series in a compressed transfer syntax."""

    def edit(dataset: Dataset, k: int) -> None:
        if syntax == RLELossless:
            return dataset.compress(RLELossless)
        if syntax == JPEGBaseline8Bit:
            dataset.BitsAllocated = dataset.BitsStored = 8
            dataset.HighBit = 7
        dataset.PixelData = encapsulate([_packed(volume()[:, :, k], syntax)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax

    return change(write(folder), edit)


def _packed(plane: np.ndarray, syntax: UID) -> bytes:
    if syntax in (JPEGLSLossless, VIDEO):  # of the latter only the name counts
        return base64.b64decode(_JPEG_LS)
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        PIL.Image.fromarray((plane.T // 2).astype(np.uint8)).save(buffer, "JPEG", quality=100)
        return buffer.getvalue()
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor({JPEG2000Lossless: "JPEG2000", JPEGLosslessSV1: "JPEG"}[syntax])
    with tempfile.TemporaryDirectory() as there:
        writer.SetFileName(f"{there}/x.dcm")
        writer.Execute(SimpleITK.GetImageFromArray(plane.T[None].astype(np.uint16)))
        return next(generate_pixel_data_frame(pydicom.dcmread(f"{there}/x.dcm").PixelData))


def own_uids(folder: Path, name: str) -> Path:
    """Give a series made from `volume()` an identity of its own, so that a server can hold several."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = make_uid(name), make_uid(name, "study")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = make_uid(name, str(k))
        dataset.PatientID, dataset.PatientName = name, f"{name}^"

    return change(folder, edit)


def remove_pixels(dataset: Dataset, k: int) -> None:
    """What is left where pixels were lost."""
    del dataset.PixelData


def remove_image(dataset: Dataset, k: int) -> None:
    """An object that never was an image."""
    del dataset.PixelData, dataset.Rows, dataset.Columns
