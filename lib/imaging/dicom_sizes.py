"""How much memory a DICOM series may ask for, asked before pydicom or GDCM unpacks it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from lib.imaging.errors import ImageError
from lib.imaging.sizes import ALWAYS, check_inflated, check_size

MOST_FRAMES = 100_000  # of one instance
LONGEST_META = 2**16  # bytes in which a file says how it is packed
DEFLATED = b"1.2.840.10008.1.2.1.99"
GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


def check_deflated(path: Path) -> None:
    """Refuse a file that is deflated as a whole and holds more than a header and some images.

    pydicom and GDCM unpack such a file before they look at it; hardly anything but old archives of reports is kept so.

    Raises:
        ImageError: it would unpack to too much.
    """
    with path.open("rb") as file:
        start = file.read(LONGEST_META)
        if DEFLATED in start:
            group = start.find(GROUP_LENGTH, 128)
            size = int.from_bytes(start[group + 8 : group + 12], "little")
            file.seek(group + 12 + size if group >= 0 else len(start))
            check_inflated(file.read(), ALWAYS, path)


def check_series(files: Sequence[Path], headers: Sequence[Dataset]) -> None:
    """Refuse a series of more voxels than an image may have, by its headers. Raises ImageError."""
    total = 0
    for path, header in zip(files, headers, strict=True):
        try:
            frames = int(header.get("NumberOfFrames") or 1)
            sides = [int(header.get(name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel")]
            itemsize = max(1, int(header.get("BitsAllocated") or 8) // 8)
            whole = all(float(header.get(name) or 0).is_integer() for name in ("RescaleSlope", "RescaleIntercept"))
        except (TypeError, ValueError, OverflowError) as error:
            raise ImageError(f"{path.name}: its header has numbers that are none ({error}): send it again") from error
        if not 0 < frames <= MOST_FRAMES:
            raise ImageError(f"{path.name}: an instance may have {MOST_FRAMES} frames, got {frames}: send it again")
        total += check_size(path, [frames, *sides], itemsize if whole else 8)
    if files:
        check_size(files[0], [total], 1, files)
