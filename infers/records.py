"""What may be recorded: JSON that every reader takes back, so that one record can never spoil the file it is kept in.

Python's `json` and pydantic disagree at the edges: nesting that one writes and the other refuses to read, numbers that
are none, text that is no Unicode. A record at such an edge makes every later save of everybody fail. So what comes from
outside is bounded here before it is kept, and a file is read as if somebody had broken it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.imaging.files import write_atomically

DEEPEST = 32  # lists and objects within each other
LARGEST = 2**20  # characters of a record, and 1 for each value
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_INTEGER = 2**63


class RecordError(ValueError):
    """A value that cannot be recorded; the message says what is allowed and what was given."""


def check_record(value: Any, largest: int = LARGEST) -> None:
    """Refuse what some reader of JSON would not take back. Raises RecordError.

    Args:
        value: of JSON's types; of others only what they hold is not looked at.
        largest: how many characters and values it may have.
    """
    size, todo = 0, [(value, 0)]
    while todo:
        item, depth = todo.pop()
        size += 1 + (len(item) if isinstance(item, str) else 0)
        if depth > DEEPEST:
            raise RecordError(f"lists and objects may lie {DEEPEST} deep in each other, got more")
        if size + len(todo) > largest:
            raise RecordError(f"a record may hold {largest} characters, got more")
        if isinstance(item, Mapping):
            for key in item:
                size += len(_text(str(key)))
            todo += ((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            todo += ((inner, depth + 1) for inner in item)
        elif isinstance(item, str):
            _text(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise RecordError(f"numbers must be finite, got {item}")
        elif isinstance(item, int) and abs(item) >= LARGEST_INTEGER:
            raise RecordError("whole numbers must fit into 64 bits, got a larger one")


def parse_record(text: str | bytes, largest: int = LARGEST) -> Any:
    """The value of a JSON text that somebody sent. Raises RecordError for what is no JSON or cannot be recorded."""
    value = _parse(text)
    check_record(value, largest)
    return value


def plain_record(value: Any) -> Any:
    """The value as it can be recorded: what is no JSON becomes text, and what no reader would take back is mended.

    For records of this app's own making, and for files that lie there already: a number that is none must not cost the
    record that it is in.
    """
    return _plain(value, 0)


def read_record(path: Path) -> Any:
    """The value in a JSON file. Raises RecordError for a broken one, OSError where there is none."""
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise RecordError(f"a record may have {LARGEST_FILE} bytes, got {size}")
    return plain_record(_parse(path.read_bytes()))


def write_record(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file that `read_record` takes back, whole or not at all; without an indent it is written faster."""
    write_atomically(path, record_bytes(value, indent))


def record_bytes(value: Any, indent: int | None = 1) -> bytes:
    """A file's content that `read_record` takes back."""
    return json.dumps(plain_record(value), indent=indent, allow_nan=False).encode()


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"must be JSON, got {text[:40]!r} ({error})") from error


def _plain(value: Any, depth: int) -> Any:
    if type(value) is str:  # most of what a long list's index holds
        return _whole(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < LARGEST_INTEGER else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping | list | tuple) and depth >= DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {_whole(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    return _whole(str(value))


def _whole(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("text must be Unicode, got half of a surrogate pair") from error
    return text
