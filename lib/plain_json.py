"""JSON that every reader takes back: Python's `json` and others disagree at the edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # lists and objects within each other
LARGEST_INTEGER = 2**63


def plain_json(value: Any, depth: int = 0) -> Any:
    """The value as every reader of JSON takes it: what is no JSON becomes text, and what no reader takes is mended.

    For records of this project's own making, and for files that lie there already: a number that is none must not cost
    the record that it is in.
    """
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
        return {_whole(str(key)): plain_json(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner, depth + 1) for inner in value]
    return _whole(str(value))


def _whole(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()
