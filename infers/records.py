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
from lib.plain_json import DEEPEST, LARGEST_INTEGER, plain_json

LARGEST = 2**20  # characters of a record, and 1 for each value
LARGEST_FILE = 64 * 2**20  # bytes


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


def read_record(path: Path) -> Any:
    """The value in a JSON file. Raises RecordError for a broken one, OSError where there is none."""
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise RecordError(f"a record may have {LARGEST_FILE} bytes, got {size}")
    return plain_json(_parse(path.read_bytes()))


def write_record(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file that `read_record` takes back, whole or not at all; without an indent it is written faster."""
    write_atomically(path, record_bytes(value, indent))


def record_bytes(value: Any, indent: int | None = 1) -> bytes:
    """A file's content that `read_record` takes back."""
    return json.dumps(plain_json(value), indent=indent, allow_nan=False).encode()


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"must be JSON, got {text[:40]!r} ({error})") from error


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("text must be Unicode, got half of a surrogate pair") from error
    return text
