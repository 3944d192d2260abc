"""Headers whose voxels lie in other files: which those are, and that none of them lies elsewhere.

A header names its data by any path it likes; followed blindly, a file in a study list would show whatever else this
machine holds. What names are in a header is asked of the library that will open them, or, where that library cannot be
asked, only one way of writing them is let through: ITK reads `ElementDataFile` with other separators and spaces too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nrrd

from lib.imaging.errors import ImageError

NRRD_HEADER, META_HEADER = (".nrrd", ".nhdr"), (".mha", ".mhd")
LONGEST_HEADER = 2**20  # bytes
_META_KEY = re.compile(rb"ElementDataFile", re.IGNORECASE)
_META_AXES = re.compile(rb"NDims[^\r\n]*")
_META_LINE = re.compile(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n")


def companions(path: Path) -> list[Path]:
    """The other files that an image's file needs, whether they are there or not; none for most formats.

    Raises:
        ImageError: a header that names a file outside its own folder, or that cannot be read.
    """
    name = path.name.lower()
    if name.endswith(".hdr"):
        return [_beside(path, ".img")]
    if name.endswith(NRRD_HEADER):
        data_name = data_file(read_nrrd_header(path)[0])
        return [] if data_name is None else _named(path, data_name, "")
    if name.endswith(META_HEADER):
        with path.open("rb") as file:
            header = file.read(LONGEST_HEADER)
        _check_axes(path, header)
        key = _META_KEY.search(header)
        line = _META_LINE.match(header, key.start()) if key else None
        if key is None or line is None or header[key.start() - 1 : key.start()] not in (b"\n", b""):
            raise ImageError(
                f"{path.name}: its header must end in a line `ElementDataFile = NAME`, or LOCAL: save it again with ITK"
            )
        if line[1].upper() != b"LOCAL":
            return _named(path, line[1].decode(errors="replace"), header[line.end() :].decode(errors="replace"))
    return []


def _check_axes(path: Path, header: bytes) -> None:
    """Refuse a MetaImage header of so many axes that ITK writes beyond the room that it has for them, and crashes."""
    for line in _META_AXES.findall(header):
        if not re.fullmatch(rb"NDims[ \t]*=[ \t]*[1-4][ \t]*", line):
            raise ImageError(
                f"{path.name}: its header must say `NDims = 3`, or 1 to 4, got {line[:40].decode(errors='replace')!r}: "
                "is the file whole?"
            )


def read_nrrd_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a NRRD file as pynrrd reads it, and how many bytes it has. Raises ImageError."""
    with path.open("rb") as file:
        lines, size = [], 0
        for line in iter(lambda: file.readline(LONGEST_HEADER), b""):
            lines.append(_text(line))
            size += len(line)
            if size > LONGEST_HEADER:
                raise ImageError(f"{path.name}: a NRRD header may have {LONGEST_HEADER} bytes: is the file whole?")
            if not lines[-1].rstrip():
                break
    try:
        return dict(nrrd.read_header(lines)), size
    except Exception as error:  # pynrrd has a way of its own to fail for every field
        raise ImageError(f"{path.name}: cannot be read ({error}): is the file whole?") from error


def _text(line: bytes) -> str:
    """A line of a NRRD header. 3D Slicer writes names as UTF-8; of bytes pynrrd would leave out what is no ASCII."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def data_file(header: dict[str, Any]) -> str | None:
    """The file that a NRRD header says its voxels lie in, as pynrrd looks for it; None where they follow the header."""
    name = header.get("datafile", header.get("data file"))
    return None if name is None else str(name)


def _named(path: Path, entry: str, rest: str) -> list[Path]:
    """The files of a header that names one, lists them in its last lines (`rest`), or gives a pattern."""
    if entry.upper().startswith("LIST"):
        return [_within(path, line.strip()) for line in rest.splitlines() if line.strip()]
    if "%" in entry:  # a pattern with first, last and step
        pattern = _within(path, entry.split()[0]).name
        numbered = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(pattern).replace(r"\%", "%")))
        return sorted(other for other in path.parent.iterdir() if numbered.fullmatch(other.name))
    return [_within(path, entry)]


def _beside(path: Path, suffix: str) -> Path:
    """The file of the same name with another suffix, in whatever case it is there."""
    names = (path.with_suffix(each) for each in (suffix, suffix.upper()))
    return next((other for other in names if other.exists()), path.with_suffix(suffix))


def _within(path: Path, name: str) -> Path:
    if Path(name).name != name.removeprefix("./") or name in (".", ".."):
        raise ImageError(
            f"{path.name}: its voxels must lie in a file beside it, got {name[:80]!r}: copy that file here and name it"
        )
    return path.parent / name
