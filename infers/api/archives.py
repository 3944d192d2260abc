"""Images that a client uploads for a session: one file, the files of a series, or an archive of either.

Archives are unpacked here and nowhere else. Their first bytes decide once what they are, whatever their name says, and
whoever decided that also unpacks them: a check by one reader and an unpacking by another disagree about a file that is
two archives at once. Entries become plain files below a private folder; everything else is refused before it is made.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fastapi import UploadFile

from infers.errors import ClientError
from infers.guards import received, safe_name
from infers.limits import MB, Limits
from lib.imaging.files import temporary_folder

GULP = 4 * MB  # contents are copied in smaller pieces: only a hostile header, or a list of too many files, is larger
PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
UNREADABLE = (  # RuntimeError: encrypted, or packed in a way that Python does not know
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, RuntimeError,
)  # fmt: skip


@contextmanager
def received_image(files: Sequence[UploadFile], uncompress: bool, limits: Limits) -> Iterator[Path]:
    """The uploaded image as a file or a folder of files, private and removed at the end unless somebody moved it.

    Args:
        files: what was sent.
        uncompress: it is one archive.
        limits: what an archive may hold.

    Raises:
        ClientError: 400 for no archive or one that must not be unpacked, 413 for one that holds too much.
    """
    if not files:
        raise ClientError("send the image as one or more `files`, got none", 400)
    if uncompress:
        if len(files) > 1:
            raise ClientError(f"uncompress takes one archive, got {len(files)} files: send them without uncompress")
        with temporary_folder() as folder:
            _unpack(files[0], Path(folder), limits)
            yield _only(Path(folder), files[0])
    elif len(files) == 1:
        with received(files[0]) as path:
            yield path
    else:
        with temporary_folder() as folder:
            for file in files:
                name = PurePosixPath((file.filename or "").replace("\\", "/")).name
                _write(file.file, Path(folder) / safe_name("file name", name))
            yield Path(folder)


def _unpack(file: UploadFile, folder: Path, limits: Limits) -> None:
    """Unpack an archive into an empty folder. Raises ClientError."""
    try:
        start = file.file.read(8)
        file.file.seek(0)
        if start.startswith(b"PK"):
            _unpack_zip(_Sips(file.file), folder, limits)
            return
        opener = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)
        stream = opener(file.file) if opener else file.file
        _unpack_tar(_Forward(stream, limits.upload), folder, limits)
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        raise ClientError(f"uncompress needs a whole zip or tar archive, got {file.filename!r}: {error}") from error


def _unpack_zip(file: _Sips, folder: Path, limits: Limits) -> None:
    with zipfile.ZipFile(file) as archive:  # it needs no more of a file
        entries = archive.infolist()
        _check_count(len(entries), limits)
        _check_bytes(sum(entry.file_size for entry in entries), limits)
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # The others are unpacked by Python in pieces whose size the archive decides
                raise ClientError(
                    f"a zip must be stored or deflated, got {entry.filename[:80]!r} otherwise: pack again"
                )
            path = _place(entry.filename, folder, limits)
            if path and not entry.is_dir():
                with archive.open(entry) as content:
                    _write(content, path)


def _unpack_tar(stream: _Forward, folder: Path, limits: Limits) -> None:
    with tarfile.TarFile(fileobj=stream, mode="r", errorlevel=2) as archive:  # type: ignore[arg-type]
        count = total = 0
        while (entry := archive.next()) is not None:
            count, total = count + 1, total + entry.size
            _check_count(count, limits)
            _check_bytes(total, limits)
            path = _place(entry.name, folder, limits)
            if not (entry.isreg() or entry.isdir()) or entry.issparse() or entry.size < 0:
                raise _not_plain(entry.name)
            tarfile.data_filter(entry, str(folder))
            if path and entry.isreg():
                content = archive.extractfile(entry)
                assert content is not None  # a plain file has one
                _write(content, path)


class _Sips:
    """A file that is never read much at once: what a header claims about lengths is not believed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > GULP:
            raise ClientError(
                f"an archive's headers and lists may take {GULP // MB} MB, got more: send fewer files", 413
            )
        data: bytes = self._stream.read(size)
        return data


class _Forward(_Sips):
    """Such a file that is read forwards only and no further than `most` bytes: it may be packed zeros without end."""

    def __init__(self, stream: Any, most: int) -> None:
        super().__init__(stream)
        self._most, self._at = most, 0
        self.seek, self.tell = self._skip, lambda: self._at

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self._at += len(data)
        if self._at > self._most:
            raise _too_big(self._most)
        return data

    def _skip(self, position: int) -> int:
        while self._at < position and self.read(min(position - self._at, GULP)):
            pass
        return self._at


def _place(name: str, folder: Path, limits: Limits) -> Path | None:
    """Where an entry belongs; None for what archivers add of their own. Raises ClientError."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts or "\\" in name or not name.isprintable():
        raise _not_plain(name)
    if len(parts) > limits.depth:
        raise ClientError(f"an archive may nest {limits.depth} folders, got {name[:80]!r}: pack it flat", 413)
    if not parts or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return None
    for part in parts:
        safe_name("a name in an archive", part)
    return folder.joinpath(*parts)


def _write(content: IO[bytes], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            shutil.copyfileobj(content, target)
    except (FileExistsError, NotADirectoryError) as error:
        raise ClientError(f"files must have different names, got {path.name!r} twice") from error


def _only(folder: Path, file: UploadFile) -> Path:
    """The file, or the innermost folder, that an unpacked archive consists of. Raises ClientError."""
    while len(inside := sorted(folder.iterdir())) == 1:
        if inside[0].is_file():
            return inside[0]
        folder = inside[0]
    if not inside:
        raise ClientError(f"an archive must hold an image, got nothing in {file.filename!r}")
    return folder


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.entries:
        raise ClientError(f"an archive may hold {limits.entries} entries, got more: send one series", 413)


def _check_bytes(total: int, limits: Limits) -> None:
    if total > limits.upload:
        raise _too_big(limits.upload)


def _too_big(most: int) -> ClientError:
    return ClientError(
        f"an archive may unpack to {most // MB} MB, got more: send fewer files, or start with --conf upload_mb", 413
    )


def _not_plain(name: str) -> ClientError:
    return ClientError(f"an archive must hold plain files below its own folder, got {name[:80]!r}")
