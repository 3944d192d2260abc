"""One DICOM series as one volume: in which order its frames lie, where, and which series are none.

Pixels are SimpleITK's, whose GDCM unpacks JPEG, JPEG-LS, JPEG 2000 and RLE and applies rescaling. The place of each
frame is read from the headers instead: GDCM takes a series with a tilted gantry for an upright one, and one with
missing slices for a complete one. Here a tilt becomes a sheared affine, which is exact. Slices at uneven distances keep
their order and their planes; one affine can only spread them evenly, and `Arrangement.note` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from lib.imaging.errors import ImageError

logger = logging.getLogger(__name__)
sitk: Any = SimpleITK  # it ships signatures without types

SAME_DIRECTION = 1e-3  # of a unit vector's components
SAME_SPACING = 1e-3  # relative
UNEVEN = 0.1  # of the mean distance between slices: headers round their numbers, and scanners move that well
CENTIMETRES = 3  # an ultrasound region's physical unit


@dataclass(frozen=True, eq=False)
class Frame:
    """Where one frame lies: its instance and number in it, and LPS millimetres, where the header says them.

    Attributes:
        position: (3,) of the first pixel's middle, or None.
        directions: (3, 2) unit vectors along a row of pixels (i) and down a column (j).
        spacing: mm from pixel to pixel along i and along j.
    """

    instance: int
    number: int
    position: np.ndarray | None
    directions: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The frames of a series in the volume's order (k), and its affine: voxel indices to LPS mm.

    Attributes:
        placed: False where the headers say nothing of the patient: the affine then only holds pixel sizes.
        note: what the affine does not tell, for a person to know; empty as a rule.
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray
    placed: bool
    note: str = ""


def read_header(path: Path) -> Dataset:
    """A file's header without its pixels. Raises ImageError."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise ImageError(f"{path.name}: cannot be read as DICOM ({error}): send or copy it again") from error


def arrange(headers: Sequence[Dataset]) -> Arrangement:
    """Put the frames of a series' instances in order.

    Args:
        headers: the instances in any order, each once.

    Raises:
        ImageError: instances without an image, of several sizes or directions, or several at one place.
    """
    frames = [frame for number, header in enumerate(headers) for frame in frames_of(number, header)]
    if not frames:
        raise ImageError("a series must hold at least one image, got none: is it an empty study?")
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        raise ImageError(f"the images of a series must have one size, got {sorted(sizes)}: split the series")
    if any(frame.position is None for frame in frames):
        return _stacked(frames, headers)
    first = frames[0]
    turned = [frame for frame in frames if np.abs(frame.directions - first.directions).max() > SAME_DIRECTION]
    if turned:
        raise ImageError(
            f"the images of a series must lie in parallel, {len(turned)} of {len(frames)} do not (a localizer?): "
            "choose another series, or split this one"
        )
    spacings = {frame.spacing for frame in frames}
    if not np.allclose(list(spacings), first.spacing, rtol=SAME_SPACING):
        raise ImageError(f"a series must have one pixel size, got {sorted(spacings)} mm: split the series")
    return _placed(frames, _distance_said(headers[0]))


def read_instances(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, int]:
    """Read one series.

    Args:
        paths: its files, in any order.

    Returns:
        Grey values or colours (I, J, K[, channels]), the affine from voxel indices to LPS mm, and the number of
        channels (0 for grey). Where low values are meant to be bright (MONOCHROME1) GDCM turns them round.

    Raises:
        ImageError: as `arrange`, or a file that cannot be read, which is named.
    """
    read = [(path, read_header(path)) for path in paths]
    headers = {str(header.get("SOPInstanceUID", path)): (path, header) for path, header in read}  # copies count once
    series = {str(header.get("SeriesInstanceUID", "")) for _, header in headers.values()}
    if len(series) > 1:
        raise ImageError(f"a folder must hold exactly one DICOM series, got {len(series)}: split it")
    files, instances = zip(*headers.values(), strict=True) if headers else ((), ())
    if without := [path.name for path, header in headers.values() if "Rows" not in header or "Columns" not in header]:
        raise ImageError(
            f"{_some(without)}: no pixel data, so this is no image: choose a series with images, or send it again whole"
        )
    arranged = arrange(instances)
    if arranged.note:
        logger.warning("series %s: %s", instances[0].get("SeriesInstanceUID", ""), arranged.note)
    array, channels = _pixels(files, arranged.frames)
    return array, arranged.affine, channels


def frames_of(number: int, header: Dataset) -> Iterator[Frame]:
    """The frames of one instance, the `number`-th of its series, in its own order. Raises ImageError."""
    size = (int(header.get("Columns", 0)), int(header.get("Rows", 0)))
    for frame in range(int(header.get("NumberOfFrames") or 1)):
        place, turn = _said_place(header, frame)
        known = place is not None and turn is not None
        position = np.array([float(x) for x in place]) if known else None
        directions = np.reshape([float(x) for x in turn], (2, 3)).T if known else np.eye(3)[:, :2]
        if not np.allclose(directions.T @ directions, np.eye(2), atol=0.01):
            raise ImageError(f"rows and columns must be at right angles, got the directions {turn}: send it again")
        yield Frame(number, frame, position, directions, _pixel_size(header, frame), size)


def _said_place(header: Dataset, frame: int) -> tuple[Any, Any]:
    """Position and orientation of a frame as the header says them, or None."""
    place = functional_group(header, frame, "PlanePositionSequence").get("ImagePositionPatient")
    turn = functional_group(header, frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
    if int(header.get("NumberOfFrames") or 1) == 1:  # with more, one position of the instance says nothing of a frame
        place = place or header.get("ImagePositionPatient") or None
        turn = turn or header.get("ImageOrientationPatient") or None
    return place, turn


def functional_group(header: Dataset, frame: int, name: str) -> Dataset:
    """A functional group of a frame of an enhanced object; an empty one where it has none."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*own[frame : frame + 1], *(header.get("SharedFunctionalGroupsSequence") or [])):
        if found := group.get(name):
            return found[0]
    return Dataset()


def _pixel_size(header: Dataset, frame: int) -> tuple[float, float]:
    measures = functional_group(header, frame, "PixelMeasuresSequence")
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    said = next((group[name].value for group in (measures, header) for name in names if group.get(name)), None)
    if said and len(said) == 2 and min(map(float, said)) > 0:
        return float(said[1]), float(said[0])  # the header has the distance between rows first
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES:
            return abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10
    return 1.0, 1.0


def _distance_said(header: Dataset) -> float:
    measures = functional_group(header, 0, "PixelMeasuresSequence")
    for said in (measures.get("SpacingBetweenSlices"), measures.get("SliceThickness"),
                 header.get("SpacingBetweenSlices"), header.get("SliceThickness")):  # fmt: skip
        if said and float(said) > 0:
            return float(said)
    return 1.0


def _stacked(frames: list[Frame], headers: Sequence[Dataset]) -> Arrangement:
    """Frames without a place: those of one instance follow each other, as in a cine loop."""
    if len(headers) > 1:
        raise ImageError(
            f"{len(headers)} images of one series do not say where they lie: give each projection a series of its own"
        )
    affine = np.diag([*frames[0].spacing, _distance_said(headers[0]), 1.0])
    note = "its frames say no place: they are taken as slices in their order" if len(frames) > 1 else ""
    return Arrangement(tuple(frames), affine, False, note)


def _placed(frames: list[Frame], distance_said: float) -> Arrangement:
    normal = np.cross(*frames[0].directions.T)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in ordered])
    steps = np.diff(positions, axis=0)
    distances = np.linalg.norm(steps, axis=1)
    mean = (positions[-1] - positions[0]) / max(len(ordered) - 1, 1) if len(ordered) > 1 else normal * distance_said
    near = SAME_SPACING * float(np.linalg.norm(mean))
    if double := int(((steps @ normal) <= near).sum()):
        raise ImageError(
            f"{double} of {len(ordered)} images lie where another one lies (several time points, echoes or copies in a "
            "series?): split the series into one for each"
        )
    affine = np.eye(4)
    affine[:3, :2] = ordered[0].directions * ordered[0].spacing
    affine[:3, 2], affine[:3, 3] = mean, positions[0]
    even = positions[0] + np.arange(len(ordered))[:, None] * mean
    note = ""
    if np.linalg.norm(positions - even, axis=1).max() > UNEVEN * np.linalg.norm(mean):
        note = (
            f"its slices lie {distances.min():.3g} to {distances.max():.3g} mm apart (missing or uneven slices): order "
            "and planes are right, but between the first and the last slice distances are evened out"
        )
    return Arrangement(tuple(ordered), affine, True, note)


def _pixels(files: Sequence[Path], frames: Sequence[Frame]) -> tuple[np.ndarray, int]:
    if len(files) == 1:
        image = _read(files[0])
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(files[frame.instance]) for frame in frames])
        try:
            image = reader.Execute()
        except RuntimeError:
            for file in files:
                _read(file)  # names the one that it is
            raise
    channels = image.GetNumberOfComponentsPerPixel()
    spatial = image.GetDimension()
    array = SimpleITK.GetArrayFromImage(image)  # (k, j, i), then channels
    array = array.transpose(*reversed(range(spatial)), *range(spatial, array.ndim))
    if spatial == 2:
        array = array[:, :, None]
    if array.shape[2] != len(frames):
        raise ImageError(f"the headers tell of {len(frames)} images and the pixels of {array.shape[2]}: send it again")
    if len(files) == 1:
        array = array[:, :, [frame.number for frame in frames]]
    return array, channels if channels > 1 else 0


def _read(path: Path) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise ImageError(f"{path.name}: {_why_unreadable(path)}") from error


def _why_unreadable(path: Path) -> str:
    try:
        dataset = pydicom.dcmread(path)
    except Exception as error:  # pydicom stumbles over a broken file in many ways
        return f"the instance is broken ({error}): send or copy it again"
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return "no pixel data, so this is no image: choose a series with images, or send it again whole"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return (
        f"its pixels ({syntax.name if syntax else 'no transfer syntax'}) cannot be unpacked: the instance is broken, "
        "or packed in a way that GDCM does not know; send it again as Explicit VR Little Endian or JPEG 2000"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
