"""The voxels of a DICOM series: unpacked by SimpleITK's GDCM, and as the values that the headers say they stand for.

GDCM unpacks JPEG, JPEG-LS, JPEG 2000 and RLE, but it takes the rescaling and the type of the first file for those of a
whole series, and knows none of the rules that enhanced objects give each of their frames. So every instance is read by
itself, rules other than a shift by a whole number are applied here, and all frames are joined in one type that holds
every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut

from lib.imaging.dicom_headers import Frame, functional_group, read_dataset
from lib.imaging.errors import ImageError
from lib.imaging.files import temporary_folder
from lib.imaging.raw import sitk

TRANSFORMATION = "PixelValueTransformationSequence"
REAL_NUMBERS = ("FloatPixelData", "DoubleFloatPixelData")
Rule = tuple[float, float]  # slope and intercept


def read_pixels(files: Sequence[Path], headers: Sequence[Dataset], frames: Sequence[Frame]) -> tuple[np.ndarray, int]:
    """The frames of a volume.

    Args:
        files, headers: the instances of the series.
        frames: which of their frames, in the order of the volume.

    Returns:
        Grey values or colours (I, J, K[, channels]), and the number of channels (0 for grey). Where low values are
        meant to be bright (MONOCHROME1) GDCM turns them round.

    Raises:
        ImageError: a file that cannot be read, which is named.
    """
    needed = sorted({frame.instance for frame in frames})
    read = {number: _instance(files[number], headers[number]) for number in needed}
    if len(channels := {array.shape[3:] for array in read.values()}) > 1:
        raise ImageError(f"a series must be all grey or all colour, got both: split it ({len(files)} images)")
    planes = [read[frame.instance][:, :, frame.number] for frame in frames]
    values = np.stack(planes, axis=2)  # in the type that holds them all
    own = channels.pop()
    return values, own[0] if own else 0


def _instance(path: Path, header: Dataset) -> np.ndarray:
    """One instance as (I, J, frames[, channels])."""
    count = int(header.get("NumberOfFrames") or 1)
    rules = [_rule(header, frame, count) for frame in range(count)]
    table = "ModalityLUTSequence" in header and header.get("SamplesPerPixel", 1) == 1
    if any(name in header for name in REAL_NUMBERS) or _has_real_numbers(path, header):
        return _real_numbers(path)
    simple = len(set(rules)) == 1 and rules[0][0] == 1 and float(rules[0][1]).is_integer()
    if simple and not table and TRANSFORMATION not in _groups(header):
        array = unpack(path)
    else:
        array = _without_rules(path)
        if table:
            array = apply_modality_lut(array, header)
        elif any(rule != (1.0, 0.0) for rule in rules):
            array = _rescaled(array, rules)
    if array.shape[2] != count:
        raise ImageError(
            f"{path.name}: its header tells of {count} images and its pixels of {array.shape[2]}: send it again"
        )
    return array


def _rule(header: Dataset, frame: int, count: int) -> Rule:
    """Slope and intercept of one frame: its own, those of all frames, or those of the instance."""
    own = functional_group(header, frame, TRANSFORMATION) if _groups(header) else Dataset()
    for source in (own, header):
        if source.get("RescaleSlope") not in (None, ""):
            return float(source.RescaleSlope), float(source.get("RescaleIntercept") or 0)
    return 1.0, 0.0


def _groups(header: Dataset) -> set[str]:
    """Names of the functional groups that some frame, or all frames, have."""
    items = (*(header.get("SharedFunctionalGroupsSequence") or []), *(
        header.get("PerFrameFunctionalGroupsSequence") or []))  # fmt: skip
    return {element.keyword for item in items for element in item}


def _rescaled(array: np.ndarray, rules: Sequence[Rule]) -> np.ndarray:
    """Stored values (I, J, frames) to the values that they stand for: whole numbers where all rules are."""
    slopes, intercepts = (np.array(each) for each in zip(*rules, strict=True))
    if (slopes == np.rint(slopes)).all() and (intercepts == np.rint(intercepts)).all() and array.dtype.kind in "iu":
        values = array.astype(np.int64) * slopes.astype(np.int64) + intercepts.astype(np.int64)
        small = np.int16 if -(2**15) <= values.min() and values.max() < 2**15 else np.int32
        return values.astype(small) if -(2**31) <= values.min() and values.max() < 2**31 else values
    return array * slopes + intercepts


def unpack(path: Path) -> np.ndarray:
    """One file as GDCM reads it, (I, J, frames[, channels]). Raises ImageError."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ImageError(f"{path.name}: {_why_unreadable(path)}") from error
    axes = image.GetDimension()
    array = sitk.GetArrayFromImage(image)  # (k, j, i), then channels
    array = array.transpose(*reversed(range(axes)), *range(axes, array.ndim))
    return array[:, :, None] if axes == 2 else array


def _without_rules(path: Path) -> np.ndarray:
    """The stored values: a copy of the file without any rule is what GDCM reads."""
    dataset = read_dataset(path)
    groups = (*(dataset.get("SharedFunctionalGroupsSequence") or []), *(
        dataset.get("PerFrameFunctionalGroupsSequence") or []))  # fmt: skip
    for item in (dataset, *groups):
        for name in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", TRANSFORMATION):
            if name in item:
                delattr(item, name)
    with temporary_folder() as folder:
        copy = Path(folder) / path.name
        dataset.save_as(copy)
        return unpack(copy)


def _has_real_numbers(path: Path, header: Dataset) -> bool:
    """Parametric maps hold real numbers in an element of their own; a header that was read without pixels lacks it."""
    return (
        "PixelRepresentation" not in header
        and header.get("BitsAllocated") in (32, 64)
        and any(name in read_dataset(path) for name in REAL_NUMBERS)
    )


def _real_numbers(path: Path) -> np.ndarray:
    array: Any = read_dataset(path).pixel_array
    return array.T[:, :, None] if array.ndim == 2 else array.T


def _why_unreadable(path: Path) -> str:
    try:
        dataset = read_dataset(path)
    except Exception as error:  # pydicom stumbles over a broken file in many ways
        return f"the instance is broken ({error}): send or copy it again"
    if not any(name in dataset for name in ("PixelData", *REAL_NUMBERS)):
        return "no pixel data, so this is no image: choose a series with images, or send it again whole"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return (
        f"its pixels ({syntax.name if syntax else 'no transfer syntax'}) cannot be unpacked: the instance is broken, "
        "or packed in a way that GDCM does not know; send it again as Explicit VR Little Endian or JPEG 2000"
    )
