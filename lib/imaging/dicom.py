"""One DICOM series as one volume: in which order its frames lie, where, and which series are none.

Pixels are those of `lib.imaging.dicom_pixels`. The place of each frame is read from the headers: GDCM takes a series
with a tilted gantry for an upright one, and one with missing slices for a complete one. Here a tilt becomes a sheared
affine, which is exact. Slices at uneven distances keep their order and their planes; one affine can only spread them
evenly, and `Arrangement.note` says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from lib.imaging.dicom_headers import Frame, frames_of, functional_group, read_dataset, read_header
from lib.imaging.dicom_pixels import read_pixels
from lib.imaging.dicom_sizes import check_series
from lib.imaging.errors import ImageError

logger = logging.getLogger(__name__)

SAME_DIRECTION = 1e-3  # of a unit vector's components
SAME_SPACING = 1e-3  # relative
UNEVEN = 0.1  # of the mean distance between slices: headers round their numbers, and scanners move that well


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The frames of a series in the volume's order (k), and its affine: voxel indices to LPS mm.

    Attributes:
        placed: False where the headers say nothing of the patient: the affine then only holds pixel sizes.
        note: what the affine does not tell, for a person to know; empty as a rule.
        volumes: how many lie at one place (times, echoes); the frames are those of one of them.
        even: whether the affine says of every slice where it lies.
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray
    placed: bool
    note: str = ""
    volumes: int = 1
    even: bool = True

    @property
    def planes(self) -> np.ndarray:
        """(K, 3) where the slices begin, LPS mm."""
        return np.array([frame.position for frame in self.frames])

    @property
    def upright(self) -> np.ndarray:
        """The affine as ITK makes it of a series: slices of a tilted gantry one above the other."""
        normal, affine = np.cross(*self.frames[0].directions.T), self.affine.copy()
        affine[:3, 2] = normal * np.linalg.norm(affine[:3, 2])
        return affine


@dataclass(frozen=True, eq=False)
class Volume:
    """The voxels of one series.

    Attributes:
        array: grey values or colours (I, J, K[, channels]).
        channels: 0 for grey.
        arranged: where they lie, and which of the series' instances they are.
    """

    array: np.ndarray
    channels: int
    arranged: Arrangement


def arrange(headers: Sequence[Dataset], volume: int = 0) -> Arrangement:
    """Put the frames of a series' instances in order.

    Args:
        headers: the instances in any order, each once.
        volume: which one, of a series that shows every place several times.

    Raises:
        ImageError: instances without an image, of several sizes or directions, or some places oftener than others.
    """
    frames = [frame for number, header in enumerate(headers) for frame in frames_of(number, header)]
    if not frames:
        raise ImageError("a series must hold at least one image, got none: is it an empty study?")
    if any("MOSAIC" in (header.get("ImageType") or ()) for header in headers):
        raise ImageError(
            "each image of a series must show one slice, got Siemens mosaics with all slices of a volume: convert the "
            "series with dcm2niix"
        )
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
    return _placed(frames, _header_distance(headers[0]), volume)


def read_instances(paths: Sequence[Path], volume: int = 0) -> Volume:
    """Read one series.

    Args:
        paths: its files, in any order.
        volume: as for `arrange`.

    Raises:
        ImageError: as `arrange`, or a file that cannot be read, which is named.
    """
    read = [(path, read_header(path)) for path in paths]
    if len(series := {str(header.get("SeriesInstanceUID", "")) for _, header in read}) > 1:
        raise ImageError(f"a folder must hold exactly one DICOM series, got {len(series)}: split it")
    if without := [path.name for path, header in read if "Rows" not in header or "Columns" not in header]:
        raise ImageError(
            f"{_some(without)}: no pixel data, so this is no image: choose a series with images, or send it again whole"
        )
    check_series([path for path, _ in read], [header for _, header in read])
    read = without_repeats(read)
    files, headers = [path for path, _ in read], [header for _, header in read]
    arranged = arrange(headers, volume)
    if arranged.note:
        logger.warning("series %s: %s", headers[0].get("SeriesInstanceUID", ""), arranged.note)
    array, channels = read_pixels(files, headers, arranged.frames)
    return Volume(array, channels, arranged)


def without_repeats(read: Sequence[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    """The files of a series, each instance once.

    Copies have one SOPInstanceUID, one place and the same pixels. A UID alone is no identity: careless anonymisation
    gives every instance the same one, or none.
    """
    same: dict[tuple[str, ...], list[tuple[Path, Dataset]]] = {}
    for path, header in read:
        uid = str(header.get("SOPInstanceUID") or path)
        place = str(header.get("ImagePositionPatient") or header.get("InstanceNumber") or "")
        same.setdefault((uid, place), []).append((path, header))
    unique: list[tuple[Path, Dataset]] = []
    for alike in same.values():
        seen = {_checksum(path): (path, header) for path, header in reversed(alike)} if len(alike) > 1 else {}
        unique += reversed(seen.values()) if seen else alike
    return unique


def _checksum(path: Path) -> str:
    """Of an instance's pixels, whatever its headers say."""
    dataset = read_dataset(path)
    names = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    return hashlib.sha256(b"".join(dataset[name].value for name in names if name in dataset)).hexdigest()


def _header_distance(header: Dataset) -> float:
    measures = functional_group(header, 0, "PixelMeasuresSequence")
    for distance in (measures.get("SpacingBetweenSlices"), measures.get("SliceThickness"),
                 header.get("SpacingBetweenSlices"), header.get("SliceThickness")):  # fmt: skip
        if distance and float(distance) > 0:
            return float(distance)
    return 1.0


def _stacked(frames: list[Frame], headers: Sequence[Dataset]) -> Arrangement:
    """Frames without a place: those of one instance follow each other, as in a cine loop."""
    if len(headers) > 1:
        raise ImageError(
            f"{len(headers)} images of one series do not say where they lie: give each projection a series of its own"
        )
    affine = np.diag([*frames[0].spacing, _header_distance(headers[0]), 1.0])
    note = "its frames say no place: they are taken as slices in their order" if len(frames) > 1 else ""
    return Arrangement(tuple(frames), affine, False, note)


def _placed(frames: list[Frame], header_distance: float, volume: int) -> Arrangement:
    normal = np.cross(*frames[0].directions.T)
    every = sorted(frames, key=lambda frame: float(frame.position @ normal))
    ordered, volumes = _one_volume(every, np.array([frame.position for frame in every]) @ normal, volume)
    positions = np.array([frame.position for frame in ordered])
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    mean = (positions[-1] - positions[0]) / max(len(ordered) - 1, 1) if len(ordered) > 1 else normal * header_distance
    affine = np.eye(4)
    affine[:3, :2] = ordered[0].directions * ordered[0].spacing
    affine[:3, 2], affine[:3, 3] = mean, positions[0]
    off = np.linalg.norm(positions - positions[0] - np.arange(len(ordered))[:, None] * mean, axis=1)
    even = bool(off.max() <= UNEVEN * np.linalg.norm(mean))
    notes = [] if even else [
        f"its slices lie {distances.min():.3g} to {distances.max():.3g} mm apart (missing or uneven slices): order and "
        "planes are right, but between the first and the last slice distances are evened out"
    ]  # fmt: skip
    if volumes > 1:
        notes.append(f"it shows every place {volumes} times (times or echoes), and number {volume} of them is taken")
    return Arrangement(tuple(ordered), affine, True, "; ".join(notes), volumes, even)


def _one_volume(ordered: list[Frame], places: np.ndarray, volume: int) -> tuple[list[Frame], int]:
    """Of frames that are sorted by their places along the normal one at each, and how many there are at each."""
    near = SAME_SPACING * (places[-1] - places[0]) / max(len(places) - 1, 1)
    starts = [0, *(np.flatnonzero(np.diff(places) > near) + 1).tolist()]
    groups = [ordered[a:b] for a, b in zip(starts, [*starts[1:], len(ordered)], strict=True)]
    counts = {len(group) for group in groups}
    if len(counts) > 1:
        raise ImageError(
            f"{len(ordered) - len(groups)} of {len(ordered)} images lie where another one lies (several time points, "
            "echoes or copies in a series?), and not all places are shown as often: split the series into one for each"
        )
    if not 0 <= volume < (count := counts.pop()):
        raise ImageError(f"frame must be 0 to {count - 1}, for the series holds {count} volumes; got {volume}")
    return [sorted(group, key=lambda frame: frame.order)[volume] for group in groups], count


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
