"""From a client's request to prompts: the only file that knows the keys which OHIF and 3D Slicer send.

All coordinates in a request are voxel indices (i, j, k) of the image's own grid, i the column, as both clients send
them. Slicer's region of interest has its corners in any order, and both are voxels inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, StrictInt

from infers.errors import ClientError
from infers.guards import checked
from infers.names import NO_STRUCTURES, names_by_value
from infers.prompts import (
    BACKGROUND_STROKES,
    FOREGROUND_STROKES,
    Bounds,
    Clicked,
    Index,
    box_of,
    check_room,
    checked_prompt,
    parse_prompts,
    useful,
    voxels,
)
from lib.imaging.label_maps import boxes_of
from lib.imaging.prompts import Prompt
from lib.parsing import AnySwitch, AnyText, Part, listed

USE_AS_TEMPLATE = "use_as_template"


def _no_switch(value: object) -> object:
    return None if isinstance(value, bool) else value


class Wanted(Part):
    """Which structures: by name, or by their indices (OHIF's class prompts)."""

    label: AnyText = None
    label_prompt: Annotated[
        tuple[int | None, ...], BeforeValidator(listed), Field(description="a list of indices of structures")
    ] = ()


class Clicks(Part):
    """Clicks and a box for one structure; `point_labels` are the kinds of `points`, `slice` leaves out other slices."""

    foreground: Clicked = ()
    background: Clicked = ()
    points: Clicked = ()
    point_labels: Annotated[
        tuple[Annotated[int, Field(ge=0, le=1)], ...] | None,
        BeforeValidator(listed),
        Field(description="a list of 1 (inside) or 0 (outside), one for each point"),
    ] = None
    roi: Bounds = ()
    slice: Annotated[Index | None, BeforeValidator(_no_switch), Field(description="the index of a slice")] = None


class Painted(Part):
    """What comes with an uploaded label map: the structure that is drawn, and where."""

    selected_label_name: AnyText = None
    label: AnyText = None
    roi: Bounds = ()


class AnswerForm(Part):
    """What is to be answered with."""

    frame: Annotated[StrictInt | None, Field(ge=0, description="a whole number from 0")] = None
    slice_axis: Annotated[
        StrictInt | None, Field(ge=0, le=2, description="0, 1 or 2, an axis of the image's array")
    ] = None
    use_as_template: AnySwitch = None
    result_extension: AnyText = None


class LabelMasks(Mapping[str, np.ndarray]):
    """{structure: bool array} of a label map, each made when it is asked for: a map may hold thousands of values.

    Args:
        label: integer array.
        request: names its values, see `names_by_value`.
        configured: names of `--conf labels`, for values that the request does not name.
        spelled: gives a structure's name as the list knows it.

    Raises:
        ClientError: values that nothing names.
    """

    def __init__(
        self,
        label: np.ndarray,
        request: Mapping[str, Any],
        configured: Sequence[str],
        spelled: Callable[[str], str] = str,
    ) -> None:
        naming = names_by_value(list(boxes_of(label)), request, configured)
        self._label, self._values = label, {spelled(name): value for value, name in naming.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        mask: np.ndarray = self._label == self._values[name]
        return mask

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def structures(request: Mapping[str, Any], labels: Mapping[str, int]) -> tuple[str, ...]:
    """The structures a request asks for: OHIF's class prompts (`label_prompt`), else `label`, else all of `labels`.

    Raises:
        ClientError: an index that `labels` does not have.
    """
    wanted = checked(Wanted, request)
    if wanted.label_prompt:
        by_index: dict[int | None, str] = {index: name for name, index in labels.items()}
        unknown = [index for index in wanted.label_prompt if index not in by_index]
        if unknown:
            raise ClientError(
                f"label_prompt must hold indices among {dict(by_index)}, got {unknown}: choose a structure in the "
                "table (not the background) before Run"
            )
        return tuple(by_index[index] for index in wanted.label_prompt)
    return (wanted.label,) if wanted.label else tuple(labels)


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
    clicks = checked(Clicks, request)
    foreground, background = _by_kind(clicks, len(shape))
    box = box_of(clicks.roi, shape)
    if clicks.slice is not None and len(shape) == 3:
        index = int(clicks.slice)
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
    # A structure may be called like another key; only a list is points
    lists = [name for name in labels if isinstance(request.get(name), list)]
    check_room(sum(name in previous for name in lists), shape)
    for name in lists:
        own = checked(Clicks, {"foreground": request[name]})
        if own.foreground:
            prompts[name] = checked_prompt(
                shape,
                foreground=voxels(own.foreground, name, len(shape)),
                background=voxels(clicks.background, "background", len(shape)),
                previous=previous.get(name),
            )
    return useful(prompts)


def slice_axis(request: Mapping[str, Any], otherwise: int) -> int:
    """The array axis along which a model for single slices cuts. Raises ClientError where it is none of 0, 1, 2."""
    axis = checked(AnswerForm, request).slice_axis
    return otherwise if axis is None else axis


def whole_frame(request: Mapping[str, Any]) -> int:
    """Which volume of a file with several is meant: the first, unless the request says another. Raises ClientError."""
    return checked(AnswerForm, request).frame or 0


def is_marked(request: Mapping[str, Any]) -> bool:
    """Whether the result of a request shall become a template. Raises ClientError."""
    return bool(checked(AnswerForm, request).use_as_template)


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
    masks = LabelMasks(scribbles, request, configured)
    strokes = {name: masks[name] for name in (FOREGROUND_STROKES, BACKGROUND_STROKES) if name in masks}
    painted = [name for name in masks if name not in NO_STRUCTURES]
    painting = checked(Painted, request)
    box, selected = box_of(painting.roi, shape), painting.selected_label_name or painting.label or None
    if strokes or box:
        name = selected or next(iter(painted), None) or (configured[0] if configured else "label_1")
        if name in NO_STRUCTURES:
            raise ClientError(f"selected_label_name must be a structure, got {name!r}: select the segment to be drawn")
        return useful({name: checked_prompt(
            shape, doodle=strokes.get(FOREGROUND_STROKES), background_doodle=strokes.get(BACKGROUND_STROKES),
            box=box, previous=masks.get(name),
        )})  # fmt: skip
    chosen = [name for name in painted if selected in (None, name)]
    check_room(len(chosen), shape)
    return useful({name: checked_prompt(shape, mask=masks[name]) for name in chosen})


def _by_kind(clicks: Clicks, dimensions: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Voxels inside the structure, and voxels outside."""
    if clicks.points:
        points = voxels(clicks.points, "points", dimensions)
        kinds = [1] * len(points) if clicks.point_labels is None else clicks.point_labels
        if len(kinds) != len(points):
            raise ClientError(
                f"point_labels must hold a 1 (inside) or 0 (outside) for each point, got {len(kinds)} for {len(points)}"
            )
        return tuple(tuple(p for p, k in zip(points, kinds, strict=True) if k == wanted) for wanted in (1, 0))
    return tuple(
        voxels(own, key, dimensions)
        for key, own in (("foreground", clicks.foreground), ("background", clicks.background))
    )
