"""From a client's request to prompts: the only file that knows the keys which OHIF and 3D Slicer send.

All coordinates in a request are voxel indices (i, j, k) of the image's own grid, i the column, as both clients send
them. Slicer's region of interest has its corners in any order, and both are voxels inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infers.errors import ClientError
from infers.names import NO_STRUCTURES, names_by_value
from infers.prompts import (
    BACKGROUND_STROKES,
    FOREGROUND_STROKES,
    box_of,
    checked_prompt,
    list_of,
    number_of,
    parse_prompts,
    points_of,
    useful,
)
from lib.imaging.label_maps import boxes_of
from lib.imaging.prompts import Prompt


def structures(request: Mapping[str, Any], labels: Mapping[str, int]) -> tuple[str, ...]:
    """The structures a request asks for: OHIF's class prompts (`label_prompt`), else `label`, else all of `labels`.

    Raises:
        ClientError: an index that `labels` does not have.
    """
    if indices := request.get("label_prompt"):
        by_index = {index: name for name, index in labels.items()}
        unknown = [index for index in list_of(indices, "label_prompt") if index not in by_index]
        if unknown:
            raise ClientError(
                f"label_prompt must hold indices among {dict(by_index)}, got {unknown}: choose a structure in the "
                "table (not the background) before Run"
            )
        return tuple(by_index[index] for index in list_of(indices, "label_prompt"))
    if name := request.get("label"):
        return (str(name),)
    return tuple(labels)


def one_structure_from_slicer(request: Mapping[str, Any]) -> bool:
    """Whether Slicer's panel prompted one segment: it signs its requests, and names the segment."""
    return "client_id" in request and bool(request.get("label") or request.get("selected_label_name"))


def click_prompts(
    request: Mapping[str, Any],
    shape: Sequence[int],
    labels: Mapping[str, int],
    previous: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Prompt]:
    """Clicks and box of a request, per structure.

    Three ways to say clicks are understood: `foreground`/`background` for the structure `label` (Slicer, OHIF's
    deepgrow), `points`/`point_labels` for the structure in `label_prompt` (OHIF's vista3d), and one key per structure
    (deepedit). `roi` and `slice` belong to the first two. Beside them, `prompts` says everything at once, see
    `parse_prompts`.

    Args:
        request: the client's parameters.
        shape: shape of the image in voxels, (I, J) or (I, J, K).
        labels: known structures and their indices; the first one is meant where a request names none.
        previous: uploaded masks to refine, bool arrays of the image's shape per structure.

    Raises:
        ClientError: nothing prompted, points or box outside the image, or values of another form.
    """
    previous = previous or {}
    if request.get("prompts"):
        return parse_prompts(request["prompts"], shape, previous)
    foreground, background = _clicks(request, len(shape))
    box = box_of(request.get("roi"), shape)
    if not isinstance(request.get("slice"), bool) and request.get("slice") is not None and len(shape) == 3:
        index = int(number_of(request["slice"], "slice"))
        foreground, background = (
            tuple(point for point in points if point[2] == index) for points in (foreground, background)
        )
        if box is not None and box[4] <= index < box[5]:
            box = (*box[:4], index, index + 1)
    prompts: dict[str, Prompt] = {}
    if foreground or background or box:
        known = dict(labels) or {"label_1": 1}  # OHIF's point prompts carry no name, and the first study has no labels
        name = structures(request, known)[0]
        prompts[name] = checked_prompt(
            shape, foreground=foreground, background=background, box=box, previous=previous.get(name)
        )
    for name in labels:
        # A structure may be called like another key; only a list is points
        if isinstance(request.get(name), list) and (points := points_of(request[name], name, len(shape))):
            prompts[name] = checked_prompt(
                shape,
                foreground=points,
                background=points_of(request.get("background"), "background", len(shape)),
                previous=previous.get(name),
            )
    return useful(prompts)


def slice_axis(request: Mapping[str, Any], otherwise: int) -> int:
    """The array axis along which a model for single slices cuts. Raises ClientError where it is none of 0, 1, 2."""
    value = request.get("slice_axis")
    if value is None:
        return otherwise
    if value not in (0, 1, 2) or isinstance(value, bool):
        raise ClientError(f"slice_axis must be 0, 1 or 2, an axis of the image's array, got {value!r}")
    return int(value)


def scribble_prompts(
    request: Mapping[str, Any], scribbles: np.ndarray, shape: Sequence[int], configured: Sequence[str]
) -> dict[str, Prompt]:
    """Prompts from an uploaded label map: strokes for the selected structure, or whole masks.

    Strokes (segments `foreground_scribbles`, `background_scribbles`) refine the mask that the selected structure
    already has; without strokes the masks themselves are the prompts, trusted as they are.

    Args:
        request: `label_info` [{"name", "id"}], `selected_label_name` and `roi`, as Slicer sends them.
        scribbles: integer array of the image's shape.
        shape: shape of the image in voxels.
        configured: names of `--conf labels`, for values that `label_info` does not name.

    Raises:
        ClientError: nothing painted, or values that nothing names.
    """
    naming = names_by_value(list(boxes_of(scribbles)), request, configured)
    painted = {name: scribbles == value for value, name in naming.items()}
    strokes = {name: painted.pop(name) for name in (FOREGROUND_STROKES, BACKGROUND_STROKES) if name in painted}
    painted = {name: mask for name, mask in painted.items() if name not in NO_STRUCTURES}
    box = box_of(request.get("roi"), shape)
    selected = str(request.get("selected_label_name") or request.get("label") or "") or None
    if strokes or box:
        name = selected or next(iter(painted), None) or (configured[0] if configured else "label_1")
        if name in NO_STRUCTURES:
            raise ClientError(f"selected_label_name must be a structure, got {name!r}: select the segment to be drawn")
        return useful({name: checked_prompt(
            shape, doodle=strokes.get(FOREGROUND_STROKES), background_doodle=strokes.get(BACKGROUND_STROKES),
            box=box, previous=painted.get(name),
        )})  # fmt: skip
    chosen = {name: mask for name, mask in painted.items() if selected in (None, name)}
    return useful({name: checked_prompt(shape, mask=mask) for name, mask in chosen.items()})


def _clicks(request: Mapping[str, Any], dimensions: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    if request.get("points"):
        points = points_of(request["points"], "points", dimensions)
        kinds = list_of(request.get("point_labels", [1] * len(points)), "point_labels")
        if len(kinds) != len(points) or any(kind not in (0, 1) for kind in kinds):
            raise ClientError(f"point_labels must hold a 1 (inside) or 0 (outside) for each point, got {kinds!r}")
        return tuple(tuple(p for p, k in zip(points, kinds, strict=True) if k == wanted) for wanted in (1, 0))
    return tuple(points_of(request.get(key), key, dimensions) for key in ("foreground", "background"))
