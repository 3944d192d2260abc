"""Headers whose voxels lie in other files: which those are, and that none of them lies elsewhere.

A header names its data by any path it likes; followed blindly, a file in a study list would show whatever else this
machine holds.
"""

from __future__ import annotations

import re
from pathlib import Path

from lib.imaging.errors import ImageError

NRRD_HEADER, META_HEADER = (".nrrd", ".nhdr"), (".mha", ".mhd")
LONGEST_HEADER = 2**20  # bytes
_NRRD_DATA = re.compile(rb"(?im)^data ?file:[ \t]*(.*?)\s*$")
_META_DATA = re.compile(rb"(?im)^ElementDataFile[ \t]*=[ \t]*(.*?)\s*$")


def companions(path: Path) -> list[Path]:
    """The other files that an image's file needs, whether they are there or not; none for most formats.

    Raises:
        ImageError: a header that names a file outside its own folder.
    """
    name = path.name.lower()
    if name.endswith(".hdr"):
        return [_beside(path, ".img")]
    if not name.endswith((*NRRD_HEADER, *META_HEADER)):
        return []
    with path.open("rb") as file:
        header = file.read(LONGEST_HEADER)
    if name.endswith(NRRD_HEADER):
        header = re.split(rb"\r?\n\r?\n", header, maxsplit=1)[0]
        found, local = _NRRD_DATA.search(header), b""
    else:
        found, local = _META_DATA.search(header), b"LOCAL"
    if found is None or found[1].upper() == local:
        return []
    said, rest = found[1].decode(errors="replace"), header[found.end() :].decode(errors="replace")
    listed = [line.strip() for line in rest.splitlines() if line.strip()] if said.upper().startswith("LIST") else None
    if listed is not None:
        return [_within(path, each) for each in listed]
    if "%" in said:  # a pattern with first, last and step
        pattern = _within(path, said.split()[0]).name
        numbered = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(pattern).replace(r"\%", "%")))
        return sorted(other for other in path.parent.iterdir() if numbered.fullmatch(other.name))
    return [_within(path, said)]


def _beside(path: Path, suffix: str) -> Path:
    """The file of the same name with another suffix, in whatever case it is there."""
    names = (path.with_suffix(each) for each in (suffix, suffix.upper()))
    return next((other for other in names if other.exists()), path.with_suffix(suffix))


def _within(path: Path, said: str) -> Path:
    if Path(said).name != said.removeprefix("./") or said in (".", ".."):
        raise ImageError(
            f"{path.name}: its voxels must lie in a file beside it, got {said[:80]!r}: copy that file here and name it"
        )
    return path.parent / said
