"""How much one request may ask of the server; `--conf` changes what may have to be changed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MB = 2**20
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # what a container of this process may use


@dataclass(frozen=True)
class Limits:
    """Sizes of one request.

    Attributes:
        upload: bytes of a request's body, and of all that an archive unpacks to.
        json: bytes of a body that is no upload.
        entries: files in an archive, or in one upload of several.
        depth: folders above a file in an archive.
    """

    upload: int = 2048 * MB
    json: int = 16 * MB
    entries: int = 10_000
    depth: int = 16


@dataclass(frozen=True)
class Memory:
    """How many bytes the server may keep of what it could compute or read again.

    Attributes:
        total: all of it.
    """

    total: int

    @classmethod
    def of(cls, megabytes: int | None) -> Memory:
        """So many, or a quarter of the machine."""
        return cls(memory_of_machine() // 4 if megabytes is None else megabytes * MB)

    @property
    def images(self) -> int:
        """Voxels of studies."""
        return self.total * 3 // 8

    @property
    def templates(self) -> int:
        """Studies that are templates, with their labels."""
        return self.total // 8

    @property
    def features(self) -> int:
        """Encoded slices."""
        return self.total // 4

    @property
    def shown(self) -> int:
        """Studies on annotation pages."""
        return self.total // 8

    @property
    def answers(self) -> int:
        """Answers to clicks; as much for the last results that nobody saved."""
        return self.total // 24

    @property
    def pictures(self) -> int:
        """The board's."""
        return self.total // 24


def memory_of_machine() -> int:
    """Bytes that this process may use at all."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        size = min(size, int(CONTAINER.read_text()))
    return size
