"""What every reader of a file format returns, and where a volume lies where two readers of its header differ.

A header can be read in more than one way: NIfTI states a place twice and a unit beside it, NRRD may leave out what its
directions mean. nibabel and ITK then decide differently, and nobody can know who is right. The voxels are the truth:
what people see and click is what ITK shows (3D Slicer, OHIF's server), so a volume lies where ITK puts it, and every
other reading is kept beside, so that a label made with it is taken too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK

sitk: Any = SimpleITK  # it ships signatures without types

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # and back
SAME_PLACE = 0.1  # voxels: headers round their numbers, but two different grids differ by more than this
AT_RIGHT_ANGLES = 1e-4  # of a cosine
CONTRADICTION = (
    "its header says in two ways where it lies, and readers differ by up to {:.3g} voxels: masks lie where ITK "
    "(3D Slicer, OHIF) shows it, labels made with either reading are taken"
)
UNKNOWN = "ITK, and with it 3D Slicer, cannot open it: labels come from programs that use nibabel"
SHEARED = "ITK, and with it 3D Slicer, cannot place it: its axes are not at right angles"


@dataclass(frozen=True)
class Segment:
    """A structure that a segmentation file names: its value in one of the file's layers."""

    name: str
    value: int
    layer: int = 0


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds before anyone decided whether it is an image or a label.

    Attributes:
        array: (I, J) or (I, J, K), with colour channels or layers as a further last axis where `channels` is not 0.
        affine: (4, 4) float64, voxel indices to RAS mm.
        others: further affines that the header can be read as.
        header: the header of a NIfTI file, byte for byte as stored.
        channels: number of colour channels or layers, 0 for a scalar image.
        palette: (N, 3) colours of the indices in `array`, for a palette picture.
        frames: how many volumes the file holds; `array` is one of them.
        segments: the structures that a segmentation file names; it may be cropped to them.
        names: {value: structure} that the file of a label map names.
        note: what a person should know of it.
        planes: (K, 3) where the slices of a DICOM series begin, LPS mm, where the affine only spreads them evenly.
    """

    array: np.ndarray
    affine: np.ndarray
    others: tuple[np.ndarray, ...] = ()
    header: nibabel.Nifti1Header | None = None
    channels: int = 0
    palette: np.ndarray | None = None
    frames: int = 1
    segments: tuple[Segment, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    planes: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a volume lies: its affine, the other readings of the same header, and what a person should know of it."""

    affine: np.ndarray
    others: tuple[np.ndarray, ...] = ()
    note: str = ""


def place_of(path: Path, io: str, affine: np.ndarray, shape: Sequence[int]) -> Place:
    """Decide where a volume lies.

    Args:
        path: its file.
        io: ITK's reader of that format.
        affine: (4, 4) another library's reading, voxel indices to RAS mm; kept to the bit where ITK's is the same.
        shape: of the volume; a flat image lies where its file says, viewers make volumes of it in ways of their own.
    """
    if len(shape) < 3 or min(shape) < 1:
        return Place(affine)
    try:
        seen = itk_affine(path, io)
    except RuntimeError:
        with np.errstate(all="ignore"):  # an axis without a length is refused later
            directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        sheared = np.abs(directions.T @ directions - np.eye(3)).max() > AT_RIGHT_ANGLES
        return Place(affine, note=SHEARED if sheared else UNKNOWN)
    if seen is None or (apart := voxels_apart(affine, seen, shape)) <= SAME_PLACE:
        return Place(affine)
    return Place(seen, (affine,), CONTRADICTION.format(apart))


def itk_affine(path: Path, io: str) -> np.ndarray | None:
    """(4, 4) voxel indices to RAS mm as ITK reads a header; None for a flat one. Raises RuntimeError."""
    return affine_of(itk_header(path, io))


def picture_affine(path: Path) -> np.ndarray:
    """(4, 4) indices of a picture, or of a stack of them, to RAS mm, as ITK and with it the viewers lay it: in LPS from
    the origin, with pixels as large as the file says; of 1 mm where only other programs open it."""
    try:
        spacing = itk_header(path).GetSpacing()
    except RuntimeError:
        spacing = ()
    return LPS_TO_RAS @ np.diag([*(*spacing, 1.0, 1.0, 1.0)[:3], 1.0])


def itk_header(path: Path, io: str = "") -> Any:
    """A reader of ITK's, by its name or else the one that fits, that has read a file's header. Raises RuntimeError."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(io)
    reader.SetFileName(str(path))
    warned = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it is said once, in the note
    try:
        reader.ReadImageInformation()
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warned)
    return reader


def affine_of(image: Any) -> np.ndarray | None:
    """(4, 4) voxel indices to RAS mm of a SimpleITK image or reader; None for a flat one."""
    axes = image.GetDimension()
    if axes < 3:
        return None
    lps = np.eye(4)
    directions = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]
    lps[:3, :3], lps[:3, 3] = directions * image.GetSpacing()[:3], image.GetOrigin()[:3]
    return LPS_TO_RAS @ lps


def upright(affine: np.ndarray) -> np.ndarray:
    """A sheared affine (4, 4) with its axes turned to right angles, as what writes NIfTI by quaternions does it."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / sides)
    straight = affine.copy()
    straight[:3, :3] = left @ right * sides
    return straight


def millimetres_apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm between where two affines (4, 4) put a corner of a volume."""
    corners = np.stack(np.meshgrid(*([-0.5, size - 0.5] for size in shape), indexing="ij"), axis=-1)
    difference = (one - other)[:3]
    apart = corners.reshape(-1, len(shape)) @ difference[:, : len(shape)].T + difference[:, 3]
    return float(np.linalg.norm(apart, axis=1).max())


def voxels_apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """As `millimetres_apart`, in the shortest voxel side of either, and less what 32-bit numbers round."""
    sides = [float(np.linalg.norm(affine[:3, : len(shape)], axis=0).min()) for affine in (one, other)]
    apart = max(0.0, millimetres_apart(one, other, shape) - max(rounding(a, shape) for a in (one, other)))
    return apart / min(sides) if min(sides) > 0 else np.inf


def rounding(affine: np.ndarray, shape: Sequence[int]) -> float:
    """How far 32-bit numbers may move a voxel, in mm: much for voxels that are tiny beside their distance from 0."""
    reach = np.abs(affine[:3, : len(shape)]) @ np.asarray(shape) + np.abs(affine[:3, 3])
    return float(np.finfo(np.float32).eps * np.linalg.norm(reach))
