"""What clicks say of a mask beyond their own slices.

A click lies in the middle of what is wrong: the border of the mask is about as far from it on one side as the true
border is on the other. So the signed distance to the border, which is minus that distance at a foreground click, should
be plus as much there. What is missing is added as a Gaussian process that was seen at every click, also at those that
the mask agrees with already, where nothing is to be added. Errors of a border are alike in the voxels around, and a
little alike farther away, so its covariance is the mean of a narrow and a wide Gaussian; a click in a wide error
reaches as far as the error probably does. What a background click cuts off from the parts that were clicked goes too.

A painted slice says more: how far the border is off everywhere along it. What it adds to the slice's signed distance is
added to the slices up to the next one that stands as well, in proportion to the distances from both, and fades out
where no other is near.

Gaussian processes: Rasmussen and Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, equation 2.25;
between slices: Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE
TMI 1990.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.imaging.label_maps import boxes_of
from lib.imaging.prompts import Prompt

Point = tuple[int, ...]
Window = tuple[slice, ...]

HALF = 0.5  # the border lies between voxels, half a side from the centres beside it
INSIDE = 0.6  # of a shortest side: how far beyond the border a click lies afterwards, at least
CUT = 3.0  # widths of a Gaussian, beyond which it counts as nothing
EXACT = 0.05  # variance of what is seen at a click where it has to be taken up: clicks need not agree to the last digit
MOST_OF_STROKES = 48  # voxels of all strokes together that count as clicks
FIRST_WINDOW = 8  # voxels in each direction in which the border is looked for at first


@dataclass(frozen=True)
class CarrySettings:
    """How far a correction carries; lengths are in the voxels' shortest side.

    Attributes:
        depth: how far inside the new mask a click lies, in its distances to the border of the mask that it corrects.
        width: sigma of the narrow Gaussian, in the largest of these distances.
        least_width: sigma of the narrow Gaussian at least.
        wide: sigma of the wide Gaussian, of a structure that is twice as wide or more.
        noise: variance of what a click says, in that of the process.
        widest: distance to the border, in depths of the mask at its deepest, that a click may speak for.
        fade: distance from a painted slice at which its correction has faded out, two slices at least.
        most: distance to the border within a slice from which on a voxel counts as no farther.
    """

    depth: float = 2.0
    width: float = 1.5
    least_width: float = 2.0
    wide: float = 6.0
    noise: float = 0.6
    widest: float = 2.0
    fade: float = 8.0
    most: float = 4.0


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


def standing_slices(prompt: Prompt, axis: int) -> list[int]:
    """Slices that nothing changes: those with a painted mask, and those confirmed as a whole, be they empty.

    What was confirmed along another axis says of the slices that it crosses nothing but its own voxels.
    """
    if prompt.confirmed is None:
        return Prompt(mask=prompt.mask).slices(axis)
    whole = np.flatnonzero(np.moveaxis(prompt.confirmed, axis, 0).all(axis=(1, 2))).tolist()
    beside = None if prompt.mask is None else prompt.mask.astype(bool) & ~prompt.confirmed
    return sorted({*whole, *Prompt(mask=beside).slices(axis)})


def confirmed_axis(prompts: Iterable[Prompt]) -> int | None:
    """The array axis along which confirmed slices of a volume follow each other; None where not exactly one fits."""
    confirmed = [own for prompt in prompts if (own := prompt.confirmed) is not None and own.ndim == 3 and own.any()]
    across = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    fitting = [
        axis
        for axis, others in across.items()
        if all((own.any(axis=others) == own.all(axis=others)).all() for own in confirmed)
    ]
    return fitting[0] if len(fitting) == 1 else None


def paint_carried(
    prompt: Prompt, axis: int, sides: Sequence[float], settings: CarrySettings = CarrySettings()
) -> np.ndarray:
    """The mask that a prompt corrects, with its standing slices in it and what they change carried to those around.

    Args:
        prompt: 3-D, with the mask that it corrects; slices that are painted as they were say that nothing is wrong.
        axis: along which the slices follow each other.
        sides: of a voxel along each axis, in any unit.

    Returns:
        bool, like the mask; the mask itself where no slice stands.
    """
    assert prompt.previous is not None
    before = inside_of(prompt.previous)
    standing = standing_slices(prompt, axis)
    if not standing:
        return before
    lengths = np.asarray(sides, float) / min(sides)
    thickness, within = lengths[axis], np.delete(lengths, axis)
    fade = max(settings.fade, 2 * thickness)  # so that the next slice gets half of it, however thick slices are
    changed = before.copy()
    old, new = (np.moveaxis(volume, axis, 0) for volume in (before, changed))
    painted = np.zeros_like(before) if prompt.mask is None else prompt.mask.astype(bool)
    new[standing] = np.moveaxis(painted, axis, 0)[standing]

    def distance(mask: np.ndarray) -> np.ndarray:
        return np.clip(signed_distance(mask, within), -settings.most, settings.most)

    added = {
        index: distance(new[index]) - distance(old[index]) for index in standing if (new[index] != old[index]).any()
    }
    ends = [None, *standing, None]
    for low, high in itertools.pairwise(ends):
        if low not in added and high not in added:
            continue
        for index in range(0 if low is None else low + 1, len(new) if high is None else high):
            total = np.zeros(new[index].shape, np.float32)
            for own, other in ((low, high), (high, low)):
                if own in added:
                    way = fade if other is None else min(abs(other - own) * thickness, fade)
                    total += max(0.0, 1 - abs(index - own) * thickness / way) * added[own]
            if total.any():
                new[index] = distance(old[index]) + total > 0
    return changed


def carried_slices(
    prompt: Prompt, axis: int, sides: Sequence[float], settings: CarrySettings = CarrySettings()
) -> dict[int, np.ndarray]:
    """Slice index to the bool (H, W) mask that a correction makes of it, of the slices that it may change.

    Args:
        prompt: 3-D, with the mask that it corrects; slices that stand are not among those that it may change.
        axis: along which the slices follow each other.
        sides: of a voxel along each axis, in any unit.
    """
    assert prompt.previous is not None
    before = inside_of(prompt.previous)
    standing = standing_slices(prompt, axis)
    foreground, background = (
        [point for point in (*clicks, *points_along(strokes)) if point[axis] not in standing]
        for clicks, strokes in ((prompt.foreground, prompt.doodle), (prompt.background, prompt.background_doodle))
    )
    carried = carry(before, foreground, background, sides, settings)
    if carried is None:
        return {}
    window, changed = carried
    slices = {}
    for index, own in enumerate(np.moveaxis(changed, axis, 0), start=window[axis].start):
        if index not in standing:
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
    amounts, widths = _observations(mask, wrong, lengths, settings)
    window = _around(list(wrong), CUT * max(widths), mask.shape, lengths)
    seen = [*wrong, *(point for point in clicks if point not in wrong and _lies_in(point, window))]
    amounts = [*amounts, *[0.0] * (len(seen) - len(wrong))]
    corners = [side.start for side in window]
    for noise in (settings.noise, EXACT):
        changed = _added(mask[window], window, np.array(seen), np.array(amounts), widths, noise, lengths) > 0
        if all(changed[tuple(np.subtract(point, corners))] == clicks[point] for point in seen):
            break
    for point in seen:
        changed[tuple(np.subtract(point, corners))] = clicks[point]
    taken = [point for point, inside in wrong.items() if not inside]
    kept = [point for point, inside in clicks.items() if inside]
    return _without_what_is_cut_off(mask, window, changed, taken, kept) if taken and kept else (window, changed)


def points_along(strokes: np.ndarray | None) -> list[Point]:
    """Voxels of strokes, evenly taken: at most so many that each new one still says something."""
    if strokes is None:
        return []
    voxels = np.argwhere(strokes)
    step = max(1, len(voxels) // MOST_OF_STROKES)
    return [tuple(voxel) for voxel in voxels[::step].tolist()]


def _observations(
    mask: np.ndarray, wrong: dict[Point, bool], lengths: np.ndarray, settings: CarrySettings
) -> tuple[list[float], tuple[float, float]]:
    """What each click that the mask is wrong at adds to the signed distance there, and sigma of both Gaussians."""
    distances = [border_distance(mask, point, lengths) for point in wrong]
    widest = np.inf
    if max(distances) > settings.least_width:
        widest = max(settings.widest * deepest(mask, lengths), settings.least_width)
    amounts = []
    for inside, distance in zip(wrong.values(), distances, strict=True):
        # Far from the mask it speaks of another part of the structure, whose size nobody knows
        amount = settings.depth * distance + INSIDE if distance <= widest else distance + INSIDE
        amounts.append(amount if inside else -amount)
    box = boxes_of(mask)[1]
    thinnest = min((side.stop - side.start) * length for side, length in zip(box, lengths, strict=True))
    narrow = max(settings.width * min(max(distances), widest), settings.least_width)
    return amounts, (narrow, max(min(settings.wide, thinnest / 2), settings.least_width))


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
    box = boxes_of(mask)[1]
    return float(ndimage.distance_transform_edt(np.pad(mask[box], 1), lengths).max()) - HALF


def _lies_in(point: Point, window: Window) -> bool:
    return all(side.start <= n < side.stop for side, n in zip(window, point, strict=True))


def _around(points: Sequence[Point], reach: float, shape: Sequence[int], lengths: np.ndarray) -> Window:
    """The window within which points count."""
    places, sides = np.array(points), reach / lengths
    low = np.maximum(np.floor(places.min(axis=0) - sides), 0).astype(int)
    high = np.minimum(np.ceil(places.max(axis=0) + sides) + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _added(
    mask: np.ndarray,
    window: Window,
    points: np.ndarray,
    amounts: np.ndarray,
    widths: tuple[float, float],
    noise: float,
    lengths: np.ndarray,
) -> np.ndarray:
    """float32: the signed distance to the border of the mask in a window, and what was seen at points added to it."""
    between = (((points[:, None] - points[None]) * lengths) ** 2).sum(axis=2)
    kernel = np.mean([np.exp(-between / (2 * width**2)) for width in widths], axis=0)
    shares = np.linalg.solve(kernel + noise * np.eye(len(points)), amounts) / len(widths)
    distance = signed_distance(mask, lengths)
    for point, share in zip(points, shares, strict=True):
        for width in widths:
            axes = [
                np.exp(-(((np.arange(side.start, side.stop) - n) * length) ** 2) / (2 * width**2)).astype(np.float32)
                for side, n, length in zip(window, point, lengths, strict=True)
            ]
            distance += np.float32(share) * axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None]
    return distance


def _without_what_is_cut_off(
    mask: np.ndarray, window: Window, changed: np.ndarray, taken: Sequence[Point], kept: Sequence[Point]
) -> tuple[Window, np.ndarray]:
    """The change of a mask without parts that hung on the clicked ones only through what was taken away."""
    if ndimage.label(changed)[1] < 2:
        return window, changed
    whole = mask.copy()
    whole[window] = changed
    box = tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes_of(mask)[1], window, strict=True)
    )
    corners = [side.start for side in box]
    before, parts = (ndimage.label(volume[box])[0] for volume in (mask, whole))
    clicked = {parts[tuple(np.subtract(point, corners))] for point in kept if _lies_in(point, box)} - {0}
    hung = {before[tuple(np.subtract(point, corners))] for point in taken}
    hung &= {before[tuple(np.subtract(point, corners))] for point in kept if _lies_in(point, box)}
    new = whole[box].copy()
    for part, own in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[own] == part
        if part not in clicked and before[own][inside].max() in hung:
            new[own][inside] = False
    return box, new


def signed_distance(mask: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float32: distance of each voxel to the border, positive inside; of a mask without a border as far as can be."""
    if mask.all() or not mask.any():
        far = float(np.linalg.norm(np.array(mask.shape) * lengths))
        return np.full(mask.shape, far if mask.all() else -far, np.float32)
    inside, outside = (ndimage.distance_transform_edt(part, lengths) for part in (mask, ~mask))
    return np.where(mask, inside - HALF, HALF - outside).astype(np.float32)
