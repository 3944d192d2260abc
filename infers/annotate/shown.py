"""A study's image as the annotation page shows it: one NIfTI file whatever the study is stored as, sent while it is
compressed.

The file has the image's own axes and place. Only the grey values may be coarser than they were: numbers that 16 bits do
not hold become 65,536 steps between the darkest and the brightest. Colour stays colour.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from cachetools import LRUCache, cached
from skimage.measure import block_reduce

from lib.imaging.formats import read_raw
from lib.imaging.image_cache import stamp_of_image
from lib.imaging.images import Image, image_of
from lib.imaging.pictures import grey_window
from lib.imaging.raw import Raw
from lib.imaging.volumes import Stack

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])  # NIfTI's type 128
LEAST_SIDE = 64  # voxels: an axis is not made coarser where fewer would be left
CHUNK = 4 * 2**20  # bytes that are compressed at a time
AS_THEY_ARE = ("u1", "i2", "u2")
SHRINKS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of one study.

    Attributes:
        image: the grey image that the network sees.
        colours: (I, J[, K], 3) uint8, None where the study is grey.
        window: grey values to show as black and as white at first.
    """

    image: Image
    colours: np.ndarray | None
    window: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the image's own axes; a picture has one slice."""
        return (*self.image.array.shape, 1)[:3]  # type: ignore[return-value]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) of voxel indices to RAS mm. A picture lies as in its file, since its third axis may say nothing."""
        if self.image.array.ndim == 3:
            return self.image.affine
        return np.diag([*(-side for side in self.image.spacing), 1.0, 1.0])

    @property
    def slice_axis(self) -> int | None:
        """The array axis along which the network cuts a volume; None for a single slice."""
        return None if 1 in self.shape else Stack.of(self.image).own_axis

    def steps(self, shrink: int) -> tuple[int, int, int]:
        """Voxels along each axis that are shown as one; axes that would be left with too few stay whole."""
        return tuple(shrink if size >= LEAST_SIDE * shrink else 1 for size in self.shape)  # type: ignore[return-value]

    def nifti(self, shrink: int = 1) -> tuple[int, Iterator[bytes]]:
        """Length in bytes of an uncompressed NIfTI file, and its parts in order.

        Args:
            shrink: of `SHRINKS`; blocks of so many voxels along an axis become their mean.
        """
        steps = self.steps(shrink)
        array = self.image.array if self.colours is None else self.colours
        array = array.reshape(*self.shape, *array.shape[self.image.array.ndim :])
        array = _coarser(array, steps) if max(steps) > 1 else array
        kind, slope, inter = (RGB, 1.0, 0.0) if self.colours is not None else _storage(array)
        header = nibabel.Nifti1Header()
        header.set_data_dtype(kind)
        header.set_data_shape(array.shape[:3])
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)
        affine[:3, :3] *= steps
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
        header.set_xyzt_units("mm")
        header["vox_offset"], header["magic"] = 352, b"n+1"
        header["cal_min"], header["cal_max"] = (0, 255) if self.colours is not None else self.window
        header["scl_slope"], header["scl_inter"] = slope, inter
        length = 352 + int(np.prod(array.shape[:3])) * kind.itemsize
        return length, _parts(bytes(header.binaryblock) + bytes(4), array, kind, slope, inter)


class ShownStudies:
    """The studies that are shown, the last few kept in memory.

    Args:
        capacity: bytes of voxels to keep; the newest is always kept.
    """

    def __init__(self, capacity: int = 512 * 2**20) -> None:
        # Who asks for what is being read waits for it; a study larger than the room is the only one in it
        self._room: LRUCache[object, Shown] = LRUCache(capacity, getsizeof=lambda shown: min(_size(shown), capacity))
        self._read = cached(self._room, condition=threading.Condition())(lambda path, stamp: _read(path))

    def of(self, path: Path) -> Shown:
        """The study in a file or a folder. Raises ImageError."""
        stamp = stamp_of_image(path)
        shown: Shown = _read(path) if stamp is None else self._read(path, stamp)
        return shown

    @property
    def held(self) -> int:
        """Bytes of voxels."""
        return int(self._room.currsize)


def compressed(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Parts of a file as parts of a gzip stream, each as soon as it is there."""
    pack = zlib.compressobj(1, wbits=31)  # the fastest: a browser on the same machine waits for the processor
    for part in parts:
        if packed := pack.compress(part):
            yield packed
    yield pack.flush()


def _read(path: Path) -> Shown:
    raw = read_raw(path)
    image = image_of(raw, path)
    return Shown(image, _colours(raw, image), grey_window(image.array))


def _colours(raw: Raw, image: Image) -> np.ndarray | None:
    colours = raw.array if raw.palette is None else raw.palette[raw.array]
    if (raw.palette is None and raw.channels < 3) or colours.shape[-1] < 3:
        return None
    colours = colours[..., :3].reshape(*image.array.shape, 3)
    if colours.dtype != np.uint8:
        low, high = float(colours.min()), float(colours.max())
        colours = (255 * (colours.astype(np.float32) - low) / max(high - low, 1e-6)).astype(np.uint8)
    grey = (colours == colours[..., :1]).all()  # a grey picture stored as colour: it has a window
    return None if grey else colours


def _storage(array: np.ndarray) -> tuple[np.dtype, float, float]:
    """The NIfTI type that grey values are stored as, with slope and intercept."""
    if array.dtype == bool:
        return np.dtype("u1"), 1.0, 0.0
    if array.dtype.str[1:] in AS_THEY_ARE:
        return array.dtype.newbyteorder("<"), 1.0, 0.0
    low, high = float(array.min()), float(array.max())
    whole = array.dtype.kind in "iu" or bool((np.rint(array) == array).all())
    for kind in ("<i2", "<u2") if whole else ():
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind), 1.0, 0.0
    slope = (high - low) / 65535 or 1.0
    return np.dtype("<i2"), slope, low + 32768 * slope


def _parts(head: bytes, array: np.ndarray, kind: np.dtype, slope: float, inter: float) -> Iterator[bytes]:
    yield head
    each = max(1, CHUNK // max(1, array[:, :, 0].nbytes))
    for start in range(0, array.shape[2], each):
        some = array[:, :, start : start + each]
        if kind is RGB:
            yield np.ascontiguousarray(some.transpose(2, 1, 0, 3)).tobytes()
            continue
        if slope != 1.0 or inter != 0.0:
            some = np.rint((some.astype(np.float64) - inter) / slope)
        yield some.astype(kind, copy=False).tobytes(order="F")


def _coarser(array: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means of blocks; those at the end may be made of fewer voxels."""
    sizes = [-(-size // step) for size, step in zip(array.shape, steps, strict=False)]
    result = np.empty((*sizes, *array.shape[3:]), array.dtype)
    block = (*steps[:2], steps[2], *[1] * (array.ndim - 3))
    padding = [(0, size * step - old) for size, step, old in zip(sizes, steps, array.shape, strict=False)]
    for place in range(sizes[2]):
        some = array[:, :, place * steps[2] : (place + 1) * steps[2]]
        missing = [*padding[:2], (0, steps[2] - some.shape[2]), *[(0, 0)] * (array.ndim - 3)]
        mean = block_reduce(np.pad(some, missing, "edge"), block, np.mean)[:, :, 0]
        result[:, :, place] = np.rint(mean) if array.dtype.kind in "biu" else mean
    return result


def _size(shown: Shown) -> int:
    return shown.image.array.nbytes + (0 if shown.colours is None else shown.colours.nbytes)
