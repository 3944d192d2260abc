"""Prompts as clients say them: clicks, boxes and strokes in JSON, in voxel indices (i, j[, k]) of the image's own grid.

The one form that holds every kind is {structure: {`foreground`, `background`, `foreground_scribbles`,
`background_scribbles`: lists of voxels; `roi`: first and last voxel on each axis}}, each part optional. The annotation
page asks with it, and a study that is prompted but not painted is stored with it (docs/annotate.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infers.errors import ClientError
from lib.imaging.prompts import Prompt, PromptError

FOREGROUND_STROKES, BACKGROUND_STROKES = "foreground_scribbles", "background_scribbles"
PROMPT_PARTS = ("foreground", "background", "roi", FOREGROUND_STROKES, BACKGROUND_STROKES)


def parse_prompts(
    value: Any, shape: Sequence[int], previous: Mapping[str, np.ndarray] | None = None
) -> dict[str, Prompt]:
    """Prompts of every kind in one JSON object.

    Args:
        value: as the module says it, or its JSON text.
        shape: of the image in voxels.
        previous: masks to refine, bool arrays of the image's shape per structure.

    Raises:
        ClientError: another form, voxels outside the image, or nothing that shows where a structure is.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(parts, Mapping) for parts in value.values()):
        raise ClientError(
            f"prompts must be {{structure: {{{', '.join(PROMPT_PARTS)}}}}}, each optional; got {str(value)[:80]!r}"
        )
    prompts = {}
    for name, parts in value.items():
        if unknown := sorted(set(parts) - set(PROMPT_PARTS)):
            raise ClientError(f"prompts of {name!r} may be {', '.join(PROMPT_PARTS)}; got {unknown[0]!r}")
        foreground, background = (points_of(parts.get(key), key, len(shape)) for key in ("foreground", "background"))
        strokes, others = (_strokes(parts.get(key), key, shape) for key in (FOREGROUND_STROKES, BACKGROUND_STROKES))
        prompts[str(name).strip()] = checked_prompt(
            shape,
            foreground=foreground,
            background=background,
            box=box_of(parts.get("roi"), shape),
            doodle=strokes,
            background_doodle=others,
            previous=(previous or {}).get(str(name).strip()),
        )
    return useful(prompts)


def checked_prompt(shape: Sequence[int], **parts: Any) -> Prompt:
    """A prompt that fits an image of this shape. Raises ClientError."""
    try:
        prompt = Prompt(**parts)
        prompt.validate(shape)
    except PromptError as error:
        raise ClientError(str(error)) from error
    return prompt


def useful(prompts: dict[str, Prompt]) -> dict[str, Prompt]:
    """The prompts that say where their structure is; background alone does so only where it corrects a mask."""
    localising = {
        name: prompt
        for name, prompt in prompts.items()
        if prompt.foreground
        or prompt.box
        or any(array is not None for array in (prompt.doodle, prompt.mask, prompt.previous))
    }
    if not localising:
        raise ClientError(
            "a prompt must say where the structure is: a foreground click, a box (roi), foreground scribbles or a "
            "painted mask; got none of them"
        )
    return localising


def points_of(value: Any, key: str, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """Points rounded to whole voxels; a 2-D image's points may carry k = 0, because Slicer's always do."""
    points = []
    for point in list_of(value, key):
        numbers = [number_of(n, key) for n in list_of(point, key)]
        if dimensions == 2 and len(numbers) == 3 and round(numbers[2]) == 0:
            numbers = numbers[:2]
        if len(numbers) != dimensions:
            raise ClientError(f"{key} must be points of {dimensions} voxel indices like the image, got {point!r}")
        points.append(tuple(math.floor(n + 0.5) for n in numbers))
    return tuple(points)


def box_of(value: Any, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Half-open bounds from [i, i, j, j, k, k] in any order within each pair; what sticks out is cut off."""
    numbers = [number_of(n, "roi") for n in list_of(value, "roi")]
    if not numbers:
        return None
    if len(shape) == 2:
        numbers = numbers[:4]
    if len(numbers) != 2 * len(shape):
        raise ClientError(f"roi must be a first and last voxel on each of {len(shape)} axes, got {value!r}")
    bounds: list[int] = []
    for axis, size in enumerate(shape):
        low, high = sorted(math.floor(n + 0.5) for n in numbers[2 * axis : 2 * axis + 2])
        low, high = max(low, 0), min(high + 1, size)
        if low >= high:
            raise ClientError(f"roi {value!r} lies outside the image of shape {tuple(shape)}: draw it on the image")
        bounds += [low, high]
    return tuple(bounds)


def _strokes(value: Any, key: str, shape: Sequence[int]) -> np.ndarray | None:
    """A bool array of the image's shape with the voxels of strokes; None where there are none."""
    points = points_of(value, key, len(shape))
    if not points:
        return None
    places = np.array(points)
    if (places < 0).any() or (places >= np.array(shape)).any():
        raise ClientError(f"{key} must lie inside the image of shape {tuple(shape)}: draw on the image")
    strokes = np.zeros(shape, bool)
    strokes[tuple(places.T)] = True
    return strokes


def list_of(value: Any, key: str) -> list[Any]:
    """A list, or one in JSON; empty where there is nothing. Raises ClientError."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError:
            raise ClientError(f"{key} must be a list, got {value!r}") from None
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ClientError(f"{key} must be a list, got {value!r}")
    return list(value)


def number_of(value: Any, key: str) -> float:
    """A finite number. Raises ClientError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ClientError(f"{key} must hold voxel indices, got {value!r}")
    return float(value)
