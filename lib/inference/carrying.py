"""What clicks say of a mask beyond their own slices.

A click lies in the middle of what is wrong: the border of the mask is about as far from it on one side as the true
border is on the other. So the signed distance to the border, which is minus that distance at a foreground click, should
be plus as much there. Radial basis functions, Gaussians around the clicks, add what is missing: they pass through every
click, also through those that the mask agrees with already, where nothing is to be added, and fade with the distance. A
click in a wide error so reaches as far as the error probably does, also in the neighbouring slices; one in a narrow
error stays where it is.

Interpolation by radial basis functions: Carr et al., "Reconstruction and representation of 3D objects with radial basis
functions", SIGGRAPH 2001.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.imaging.prompts import Prompt

Point = tuple[int, ...]
Window = tuple[slice, ...]

HALF = 0.5  # the border lies between voxels, half a side from the centres beside it
INSIDE = 0.6  # of a shortest side: how far beyond the border a click lies afterwards, at least
CUT = 3.0  # widths of a Gaussian, beyond which it counts as nothing
RIDGE = 0.05  # clicks in one place need not agree to the last digit
MOST_OF_STROKES = 48  # voxels of all strokes together that count as clicks
FIRST_WINDOW = 8  # voxels in each direction in which the border is looked for at first


@dataclass(frozen=True)
class CarrySettings:
    """How far a correction carries; lengths are in the voxels' shortest side.

    Attributes:
        depth: how far inside the new mask a click lies, in its distances to the border of the mask that it corrects.
        width: sigma of a new click's Gaussian, in the same distances.
        least_width: sigma at least, and that of a click which the mask agrees with.
        widest: distance to the border, in depths of the mask at its deepest, that a click may speak for.
    """

    depth: float = 1.5
    width: float = 1.5
    least_width: float = 2.0
    widest: float = 2.0


@dataclass(frozen=True)
class _Pull:
    """What one click adds to the signed distance: `amount` at the click itself, `width` its sigma."""

    point: Point
    amount: float
    width: float


def inside_of(mask: np.ndarray) -> np.ndarray:
    """A bool mask or probabilities as a bool mask; of the former no copy."""
    return mask if mask.dtype == bool else mask > 0.5


def disagreeing(prompt: Prompt, axis: int) -> list[int]:
    """Slices on which a correction says another thing than the mask that it corrects, or has a box."""
    assert prompt.previous is not None
    before = inside_of(prompt.previous)
    indices = {point[axis] for point in prompt.foreground if not before[point]}
    indices.update(point[axis] for point in prompt.background if before[point])
    missing = None if prompt.doodle is None else prompt.doodle & ~before
    extra = None if prompt.background_doodle is None else prompt.background_doodle & before
    indices.update(Prompt(box=prompt.box, doodle=missing, background_doodle=extra).slices(axis))
    return sorted(indices)


def carried_slices(
    prompt: Prompt, axis: int, sides: Sequence[float], settings: CarrySettings = CarrySettings()
) -> dict[int, np.ndarray]:
    """Slice index to the bool (H, W) mask that a correction makes of it, of the slices that it may change.

    Args:
        prompt: 3-D, with the mask that it corrects; slices with a painted mask are not among those that it may change.
        axis: along which the slices follow each other.
        sides: of a voxel along each axis, in any unit.
    """
    assert prompt.previous is not None
    before = inside_of(prompt.previous)
    foreground = [*prompt.foreground, *points_along(prompt.doodle)]
    background = [*prompt.background, *points_along(prompt.background_doodle)]
    carried = carry(before, foreground, background, sides, settings)
    if carried is None:
        return {}
    window, changed = carried
    painted = Prompt(mask=prompt.mask).slices(axis)
    slices = {}
    for index, own in enumerate(np.moveaxis(changed, axis, 0), start=window[axis].start):
        if index not in painted:
            slices[index] = np.array(np.moveaxis(before, axis, 0)[index])
            slices[index][window[:axis] + window[axis + 1 :]] = own
    return slices


def carry(
    mask: np.ndarray,
    foreground: Iterable[Point],
    background: Iterable[Point],
    sides: Sequence[float],
    settings: CarrySettings = CarrySettings(),
) -> tuple[Window, np.ndarray] | None:
    """The mask as all clicks on it want it, where they change it.

    Args:
        mask: bool, 3-D, with something in it; it is not written to.
        foreground, background: voxels.
        sides: of a voxel along each axis, in any unit.

    Returns:
        The window of the mask that may change, and the new mask in it; None where the mask agrees with every click, or
        has no border.
    """
    lengths = np.asarray(sides, float) / min(sides)
    clicks = {point: True for point in foreground} | {point: False for point in background}
    wrong = {point: inside for point, inside in clicks.items() if mask[point] != inside}
    if not wrong or mask.all() or not mask.any():
        return None
    pulls = _pulls(mask, wrong, lengths, settings)
    agreed = [_Pull(point, 0.0, settings.least_width) for point in clicks if point not in wrong]
    window = _around(pulls, mask.shape, lengths)
    near = [pull for pull in agreed if _lies_in(pull.point, window)]
    return window, _interpolated(mask[window], window, [*pulls, *near], lengths)


def points_along(strokes: np.ndarray | None) -> list[Point]:
    """Voxels of strokes, evenly taken: at most so many that each new one still says something."""
    if strokes is None:
        return []
    voxels = np.argwhere(strokes)
    step = max(1, len(voxels) // MOST_OF_STROKES)
    return [tuple(voxel) for voxel in voxels[::step].tolist()]


def _pulls(mask: np.ndarray, wrong: dict[Point, bool], lengths: np.ndarray, settings: CarrySettings) -> list[_Pull]:
    """What each click that the mask is wrong at adds."""
    distances = {point: border_distance(mask, point, lengths) for point in wrong}
    widest = np.inf
    if max(distances.values()) > settings.least_width:
        widest = max(settings.widest * deepest(mask, lengths), settings.least_width)
    pulls = []
    for point, inside in wrong.items():
        distance = distances[point]
        # Far from the mask it speaks of another part of the structure, whose size nobody knows
        amount = settings.depth * distance + INSIDE if distance <= widest else distance + INSIDE
        width = max(settings.width * min(distance, widest), settings.least_width)
        pulls.append(_Pull(point, amount if inside else -amount, width))
    return pulls


def border_distance(mask: np.ndarray, point: Point, lengths: np.ndarray) -> float:
    """How far a voxel is from the border of the mask that it lies in, or of the rest of the volume.

    Args:
        mask: bool, 3-D, not the same everywhere.
        lengths: sides of a voxel along the axes; the distance is in their unit.
    """
    half = FIRST_WINDOW
    while True:
        window = tuple(slice(max(0, n - half), n + half + 1) for n in point)
        others = np.argwhere(mask[window] != mask[point])
        whole = all(n <= half and n + half + 1 >= size for n, size in zip(point, mask.shape, strict=True))
        if len(others):
            offsets = (others + [side.start for side in window] - point) * lengths
            nearest = float(np.sqrt((offsets**2).sum(axis=1).min()))
            if whole or nearest <= half:  # a side is 1 at least, so nothing outside the window is nearer
                return nearest - HALF
        elif whole:
            raise ValueError("a mask that is the same everywhere has no border")
        half *= 2


def deepest(mask: np.ndarray, lengths: np.ndarray) -> float:
    """The largest distance of a voxel of the mask from its border, in the unit of the sides of a voxel."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    return float(ndimage.distance_transform_edt(np.pad(mask[box], 1), lengths).max()) - HALF


def _lies_in(point: Point, window: Window) -> bool:
    return all(side.start <= n < side.stop for side, n in zip(window, point, strict=True))


def _around(pulls: Collection[_Pull], shape: Sequence[int], lengths: np.ndarray) -> Window:
    """The window within which the pulls count."""
    points = np.array([pull.point for pull in pulls])
    reach = CUT * np.array([[pull.width] for pull in pulls]) / lengths
    low = np.maximum(np.floor((points - reach).min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil((points + reach).max(axis=0)) + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _interpolated(mask: np.ndarray, window: Window, pulls: Sequence[_Pull], lengths: np.ndarray) -> np.ndarray:
    """The mask in a window, with the signed distance to its border pulled so that it takes up every pull."""
    points = np.array([pull.point for pull in pulls], float)
    amounts, widths = np.array([pull.amount for pull in pulls]), np.array([pull.width for pull in pulls])
    between = ((points[:, None] - points[None]) * lengths) ** 2
    kernel = np.exp(-between.sum(axis=2) / (2 * widths**2))
    kernel = (kernel + RIDGE * np.eye(len(pulls))) / (1 + RIDGE)
    shares = np.linalg.solve(kernel, amounts)
    distance = signed_distance(mask, lengths)
    for point, width, share in zip(points, widths, shares, strict=True):
        axes = [
            np.exp(-(((np.arange(side.start, side.stop) - n) * length) ** 2) / (2 * width**2))
            for side, n, length in zip(window, point, lengths, strict=True)
        ]
        distance += share * axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None]
    return distance > 0


def signed_distance(mask: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float32: distance of each voxel to the border, positive inside; of a mask without a border as far as can be."""
    if mask.all() or not mask.any():
        far = float(np.linalg.norm(np.array(mask.shape) * lengths))
        return np.full(mask.shape, far if mask.all() else -far, np.float32)
    inside, outside = (ndimage.distance_transform_edt(part, lengths) for part in (mask, ~mask))
    return np.where(mask, inside - HALF, HALF - outside).astype(np.float32)
