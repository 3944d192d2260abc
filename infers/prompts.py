"""Prompts as clients say them: clicks, boxes and strokes in JSON, in voxel indices (i, j[, k]) of the image's own grid.

The one form that holds every kind is {structure: {`foreground`, `background`, `foreground_scribbles`,
`background_scribbles`: lists of voxels; `roi`: first and last voxel on each axis; `painted`: slices that are as they
shall be}}, each part optional. The annotation page asks with it, and a study that is prompted but not painted is stored
with it (docs/annotate.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from infers.errors import ClientError
from infers.guards import checked
from lib.imaging.prompts import Prompt, PromptError
from lib.imaging.runs import pixels_of
from lib.imaging.sizes import MB, allowed
from lib.parsing import Options, listed, shown

MOST_STRUCTURES = 254  # as many as a study list has
MOST_CLICKS = 500  # of a kind for one structure: what they say of each other grows with their square
FOREGROUND_STROKES, BACKGROUND_STROKES = "foreground_scribbles", "background_scribbles"

Index = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Indices = Annotated[tuple[Index, ...], BeforeValidator(listed)]
Points = Annotated[
    tuple[Indices, ...], BeforeValidator(listed), Field(description="a list of points in voxel indices (i, j[, k])")
]
Clicked = Annotated[
    tuple[Indices, ...],
    Field(max_length=MOST_CLICKS),
    BeforeValidator(listed),
    Field(description=f"a list of up to {MOST_CLICKS} points in voxel indices (i, j[, k])"),
]
Bounds = Annotated[Indices, Field(description="a list of the first and the last of the voxel indices on each axis")]


Runs = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=0)], ...],
    BeforeValidator(listed),
    Field(description="a list of whole numbers: first pixel and number of pixels of each run"),
]


class PaintedSlices(Options):
    """Slices of a volume that a person painted or confirmed: they stand, and what they change is carried.

    Attributes:
        axis: of the array, along which the slices follow each other.
        slices: {index: runs of the structure's pixels (`lib.imaging.runs`)}; no run is a slice without the structure.
    """

    axis: Annotated[int, Field(strict=True, ge=0, le=2, description="0, 1 or 2, an axis of the image's array")] = 2
    slices: Annotated[dict[int, Runs], Field(description="an object of runs of pixels by index of the slice")]


class StructurePrompts(Options):
    """The prompts of one structure."""

    foreground: Clicked = ()
    background: Clicked = ()
    roi: Bounds = ()
    foreground_scribbles: Points = ()
    background_scribbles: Points = ()
    painted: Annotated[
        PaintedSlices | None,
        Field(description="an object of axis, 0, 1 or 2, and slices, an object of runs of pixels by index"),
    ] = None

    @property
    def volumes(self) -> int:
        """How many arrays of the image's shape it becomes."""
        strokes = bool(self.foreground_scribbles) + bool(self.background_scribbles)
        return strokes + (2 if self.painted else 0)


PROMPT_PARTS = tuple(StructurePrompts.model_fields)


def parse_prompts(
    value: Any, shape: Sequence[int], previous: Mapping[str, np.ndarray] | None = None
) -> dict[str, Prompt]:
    """Prompts of every kind in one JSON object.

    Args:
        value: as the module says it, or its JSON text.
        shape: of the image in voxels.
        previous: masks to refine, bool arrays of the image's shape per structure.

    Raises:
        ClientError: another form, too many, voxels outside the image, or nothing that shows where a structure is.
    """
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, Mapping) or not all(isinstance(parts, Mapping) for parts in value.values()):
        raise ClientError(
            f"prompts must be {{structure: {{{', '.join(PROMPT_PARTS)}}}}}, each optional; got {shown(value)}"
        )
    if len(value) > MOST_STRUCTURES:
        raise ClientError(f"prompts may be of {MOST_STRUCTURES} structures, got {len(value)}")
    given = {str(key).strip(): checked(StructurePrompts, own, f"prompts of {key!r}") for key, own in value.items()}
    previous = previous or {}
    check_room(sum(parts.volumes + (name in previous) for name, parts in given.items()), shape)
    prompts, axes = {}, set()
    for name, parts in given.items():
        axes |= {parts.painted.axis} if parts.painted and parts.painted.slices else set()
        strokes, others = parts.foreground_scribbles, parts.background_scribbles
        prompts[name] = checked_prompt(
            shape,
            foreground=voxels(parts.foreground, "foreground", len(shape)),
            background=voxels(parts.background, "background", len(shape)),
            box=box_of(parts.roi, shape),
            doodle=_strokes(strokes, FOREGROUND_STROKES, shape),
            background_doodle=_strokes(others, BACKGROUND_STROKES, shape),
            previous=previous.get(name),
            **_painted(parts.painted, shape),
        )
    if len(axes) > 1:
        raise ClientError(
            f"painted slices of one request lie along one axis, got {sorted(axes)}: send one after another"
        )
    return useful(prompts)


def check_room(volumes: int, shape: Sequence[int]) -> None:
    """Refuse more masks of one byte a voxel than an image may take. Raises ClientError, 413."""
    if (size := volumes * math.prod(shape)) > allowed():
        raise ClientError(
            f"masks and strokes of one request may take {allowed() // MB} MB, these take {size // MB} MB ({volumes} of "
            f"{' x '.join(map(str, shape))} voxels): send fewer structures at once, or start the server with a greater "
            "--conf image_mb",
            413,
        )


def _painted(painted: PaintedSlices | None, shape: Sequence[int]) -> dict[str, np.ndarray]:
    """`mask` and `confirmed` of a prompt with painted slices."""
    if painted is None:
        return {}
    if len(shape) != 3:
        raise ClientError("painted holds slices of a volume, and this image has one slice: send its mask as a label")
    mask, confirmed = np.zeros(shape, bool), np.zeros(shape, bool)
    across = [size for axis, size in enumerate(shape) if axis != painted.axis]
    for index, runs in painted.slices.items():
        if not 0 <= index < shape[painted.axis]:
            raise ClientError(f"painted slices on axis {painted.axis} are 0 to {shape[painted.axis] - 1}, got {index}")
        try:
            pixels = pixels_of(runs, (across[0], across[1]))
        except ValueError as error:
            raise ClientError(f"painted slice {index}: {error}") from error
        place = (slice(None),) * painted.axis + (index,)
        mask[place], confirmed[place] = pixels, True
    return {"mask": mask, "confirmed": confirmed}


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


def voxels(points: Points, key: str, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """Points rounded to whole voxels; a 2-D image's points may carry k = 0, because Slicer's always do.

    Raises:
        ClientError: points of another number of dimensions, with the key that they came under.
    """
    rounded = []
    for point in points:
        numbers = point[:2] if dimensions == 2 and len(point) == 3 and round(point[2]) == 0 else point
        if len(numbers) != dimensions:
            raise ClientError(f"{key} must be points of {dimensions} voxel indices like the image, got {[*point]!r}")
        rounded.append(tuple(math.floor(n + 0.5) for n in numbers))
    return tuple(rounded)


def box_of(bounds: Bounds, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Half-open bounds from (i, i, j, j, k, k) in any order within each pair; what sticks out is cut off."""
    if not bounds:
        return None
    numbers = bounds[:4] if len(shape) == 2 else bounds
    if len(numbers) != 2 * len(shape):
        raise ClientError(f"roi must be a first and last voxel on each of {len(shape)} axes, got {[*bounds]!r}")
    box: list[int] = []
    for axis, size in enumerate(shape):
        low, high = sorted(math.floor(n + 0.5) for n in numbers[2 * axis : 2 * axis + 2])
        low, high = max(low, 0), min(high + 1, size)
        if low >= high:
            raise ClientError(f"roi {[*bounds]!r} lies outside the image of shape {tuple(shape)}: draw it on the image")
        box += [low, high]
    return tuple(box)


def _strokes(points: Points, key: str, shape: Sequence[int]) -> np.ndarray | None:
    """A bool array of the image's shape with the voxels of strokes; None where there are none."""
    if not points:
        return None
    places = np.array(voxels(points, key, len(shape)))
    if (places < 0).any() or (places >= np.array(shape)).any():
        raise ClientError(f"{key} must lie inside the image of shape {tuple(shape)}: draw on the image")
    strokes = np.zeros(shape, bool)
    strokes[tuple(places.T)] = True
    return strokes
