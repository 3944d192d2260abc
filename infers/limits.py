"""How much one request may ask of the server; `--conf` changes what may have to be changed."""

from __future__ import annotations

from dataclasses import dataclass

MB = 2**20


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
