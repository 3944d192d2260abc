"""How much memory one file may ask for, asked of its header before its voxels are unpacked.

Zeros pack a thousandfold, and a header of a hundred bytes can tell of any shape: neither is believed before it is
compared with what an image may have.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from lib.imaging.errors import ImageError

MB = 2**20
PIECE = MB
ALWAYS = 256 * MB  # of voxels, whatever the file's size
PACKED = 200  # times: photographs and scans pack 2 to 10 times, air around them more, nothing real that much

_limits = {"bytes": 2048 * MB}
_narrower: ContextVar[int | None] = ContextVar("narrower", default=None)


def allow(megabytes: int) -> None:
    """Let a file hold so many megabytes of voxels, in this process."""
    _limits["bytes"] = megabytes * MB


def allowed() -> int:
    """Bytes of voxels that a file may hold in this process."""
    return _limits["bytes"]


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What is read within may hold `size` bytes of voxels, or the general limit where that is less."""
    token = _narrower.set(size)
    try:
        yield
    finally:
        _narrower.reset(token)


def check_size(path: Path, shape: Sequence[int], itemsize: int, files: Sequence[Path] = ()) -> int:
    """How many bytes the voxels of a file will take, by its header.

    Args:
        path: the file, for the message.
        shape: of everything that will be unpacked, channels and frames included.
        itemsize: bytes of one number in memory.
        files: where the voxels lie; `path` itself where it says nothing.

    Raises:
        ImageError: more than an image may have, or far more than its file can hold.
    """
    size = itemsize
    for side in shape:
        size *= max(int(side), 0)
    limit, narrower = allowed(), _narrower.get()
    claim = f"{path.name}: its header tells of {size // MB} MB of voxels ({' x '.join(map(str, shape))})"
    if narrower is not None and size > narrower:
        raise ImageError(f"{claim}, and {narrower // MB} MB are allowed here: save it on its image's grid")
    if size > limit:
        raise ImageError(f"{claim}, and {limit // MB} MB are allowed: crop it, or start with a greater --conf image_mb")
    stored = sum(os.stat(file).st_size for file in files or [path])
    if size > max(ALWAYS, PACKED * stored):
        raise ImageError(f"{claim} in {stored} bytes, which no image packs into: is the file whole?")
    return size


def inflated(stream: IO[bytes], most: int, path: Path) -> bytes:
    """What a stream unpacks to. Raises ImageError as soon as that is more than `most` bytes."""
    content = bytearray()
    while piece := stream.read(PIECE):
        content += piece
        if len(content) > most:
            raise ImageError(f"{path.name}: holds more voxels than its header tells of: is the file whole?")
    return bytes(content)


def check_inflated(packed: bytes, most: int, path: Path) -> None:
    """Refuse raw deflated bytes that unpack to more than `most`. Raises ImageError."""
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed and not unpacker.eof:
        total += len(unpacker.decompress(packed, PIECE))
        packed = unpacker.unconsumed_tail
        if total > most:
            raise ImageError(f"{path.name}: unpacks to more than {most // MB} MB: send it without packing its header")
