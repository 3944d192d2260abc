"""Folders on this machine or at any address that fsspec knows (s3://, gs://, abfs://, memory://), in one form.

What is written is there whole or not at all: files of this machine by a rename, objects of a store because a store
keeps only whole ones.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from lib.cluster.host import Away
from lib.imaging.errors import ImageError
from lib.imaging.files import write_atomically

# What is wrong with a disk or its network, and not with the study that met it
TRANSIENT = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH),
    }
)


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Within, an error that says that the place is full or away becomes `Away`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise Away(f"{place} cannot be reached: {error}") from error
    except OSError as error:
        # Stores raise a plain OSError where they have no number for what happened
        if error.errno is not None and error.errno not in TRANSIENT:
            raise
        raise Away(f"{place} cannot be used: {error}") from error


def below(name: str) -> str:
    """A name that stays below the folder that it is joined to: ids of studies come from archives. Raises ImageError."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise ImageError(f"a file is called by its study's id, which may not lead out of the folder, got {name[:80]!r}")
    return name


class Storage:
    """A folder; picklable, and opened where it is used. A name that leads out of it is an ImageError.

    Args:
        address: a path, or an address with its scheme.
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else str(Path(address).resolve())
        self.address = self.address.removeprefix("file://").rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that this machine mounts."""
        return "://" not in self.address

    def write(self, name: str, data: bytes) -> None:
        """Write a file below the folder, whole or not at all. Raises Away where the place is full or cannot be
        reached."""
        with reaching(self.address):
            if self.is_local:
                write_atomically(Path(self.address) / below(name), data)
            else:
                files, root = self._files
                parent = PurePosixPath(root, below(name)).parent
                files.makedirs(str(parent), exist_ok=True)
                files.pipe_file(f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none. Raises Away."""
        with reaching(self.address):
            try:
                if self.is_local:
                    return (Path(self.address) / below(name)).read_bytes()
                files, root = self._files
                return bytes(files.cat_file(f"{root}/{below(name)}"))
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        """Names of the files of a folder below, sorted; none where it does not exist. Raises Away."""
        files, root = self._files
        path = f"{root}/{folder}".rstrip("/")
        with reaching(self.address):
            try:
                entries = files.ls(path, detail=True, refresh=True)
            except FileNotFoundError:
                return []
        return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file")

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """(folder below this one, its folders, its files), like `os.walk`; removing folders leaves them out."""
        files, root = self._files
        for path, folders, names in files.walk(root):
            yield PurePosixPath(path).relative_to(root).as_posix(), folders, names

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none. Raises Away."""
        files, root = self._files
        with reaching(self.address):
            try:
                files.rm_file(f"{root}/{below(name)}")
            except FileNotFoundError:
                return

    def rename(self, name: str, other: str) -> None:
        """Give a file another name. Raises Away."""
        files, root = self._files
        with reaching(self.address):
            files.mv(f"{root}/{below(name)}", f"{root}/{below(other)}")

    def fetch(self, name: str, into: Path) -> Path:
        """A file as a file of this machine: itself, or a copy in the folder `into`. Raises Away."""
        if self.is_local:
            return Path(self.address) / below(name)
        files, root = self._files
        path = into / PurePosixPath(name).name
        with reaching(self.address):
            files.get_file(f"{root}/{below(name)}", str(path))
        return path

    @cached_property
    def _files(self) -> tuple[Any, str]:
        """The file system and the folder's path in it."""
        import fsspec

        files, root = fsspec.core.url_to_fs(self.address)
        return files, str(root).rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}  # connections do not travel
