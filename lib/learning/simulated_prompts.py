"""What an annotator would have said: prompts drawn from a known mask, for training, evaluation and simulation.

The prompts themselves are `lib.imaging.prompts.Prompt`; everything here works on 2-D masks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage
from skimage.draw import line
from skimage.graph import MCP_Geometric, route_through_array

from lib.imaging.prompts import Prompt, PromptType

BOX_JITTER = 0.06  # of the box's side: people draw boxes a little too small or too large
LOOSE_BOX = 0.35  # of the box's side: the most room that a box drawn with a generous hand leaves on one side
LEAST_WAY = 12  # pixels: below it a stroke along a structure is no longer than one across it


def simulate_prompt(mask: np.ndarray, kind: PromptType, rng: np.random.Generator) -> Prompt:
    """A prompt of this kind on a non-empty 2-D bool mask (I, J), as a person might give it.

    Click: one to three clicks inside, up to two outside. BBox: the tight box, jittered. Doodle: strokes inside and at
    times outside. SegLab: the mask. Raises ValueError for an empty mask, which only SegLab can express.
    """
    if kind is PromptType.SEGLAB:
        return Prompt(mask=mask)
    if not mask.any():
        raise ValueError(f"a {kind.value} prompt needs a structure to point at, got an empty mask: use seglab")
    if kind is PromptType.CLICK:
        inside = tuple(interior_point(mask, rng) for _ in range(rng.integers(1, 4)))
        outside = [nearby_background(mask, rng) for _ in range(rng.integers(0, 3))]
        return Prompt(foreground=inside, background=tuple(point for point in outside if point))
    if kind is PromptType.BBOX:
        return Prompt(box=jittered_box(mask, rng))
    strokes = scribble(mask, rng)
    around = ndimage.binary_dilation(mask, iterations=max(2, min(mask.shape) // 8)) & ~mask
    background = scribble(around, rng) if around.any() and rng.random() < 0.5 else None
    return Prompt(doodle=strokes, background_doodle=background)


def practice_prompt(mask: np.ndarray, kind: PromptType, rng: np.random.Generator) -> Prompt:
    """A prompt of this kind as training wants it: everything that people do and `simulate_prompt` measures, and more.

    Boxes that are tight on all four sides, drawn by hand, or loose; strokes along the whole length of a structure; a
    click beside a box or a stroke. Same arguments and errors as `simulate_prompt`.
    """
    if kind is PromptType.SEGLAB or not mask.any():
        return simulate_prompt(mask, kind, rng)
    if kind is PromptType.BBOX:
        hand = rng.random()
        box = tight_box(mask) if hand < 0.5 else jittered_box(mask, rng) if hand < 0.8 else loose_box(mask, rng)
        prompt = Prompt(box=box)
    elif kind is PromptType.DOODLE and rng.random() < 0.4:
        prompt = Prompt(doodle=lengthwise_stroke(mask, rng))
    else:
        prompt = simulate_prompt(mask, kind, rng)
    if kind is not PromptType.CLICK and rng.random() < 0.25:
        prompt = prompt.replace(foreground=(interior_point(mask, rng),))
    return prompt


def interior_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A random pixel of the mask, most likely deep inside."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2
    flat = rng.choice(depth.size, p=(depth / depth.sum()).ravel())
    i, j = np.unravel_index(flat, mask.shape)
    return int(i), int(j)


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel furthest from the border of the mask's largest 4-connected part."""
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    i, j = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(i), int(j)


def nearby_background(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """A random background pixel, half of the time close to the structure; None where there is no background."""
    outside = ~mask
    if rng.random() < 0.5:
        close = ndimage.binary_dilation(mask, iterations=max(3, min(mask.shape) // 8)) & outside
        outside = close if close.any() else outside
    candidates = np.flatnonzero(outside)
    if not len(candidates):
        return None
    i, j = np.unravel_index(int(rng.choice(candidates)), mask.shape)
    return int(i), int(j)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Half-open (i0, i1, j0, j1) around a non-empty mask."""
    (rows, columns) = ndimage.find_objects(mask.astype(np.uint8))[0]
    return rows.start, rows.stop, columns.start, columns.stop


def jittered_box(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The tight box with each bound moved by some per cent of its side, at least one pixel wide."""
    i0, i1, j0, j1 = tight_box(mask)
    moved = []
    for low, high, limit in ((i0, i1, mask.shape[0]), (j0, j1, mask.shape[1])):
        shift = rng.normal(0, BOX_JITTER * (high - low), 2).round().astype(int)
        low = int(np.clip(low + shift[0], 0, limit - 1))
        moved += [low, int(np.clip(high + shift[1], low + 1, limit))]
    return moved[0], moved[1], moved[2], moved[3]


def loose_box(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box with room around the structure, another amount on each side."""
    i0, i1, j0, j1 = tight_box(mask)
    room = rng.uniform(0, LOOSE_BOX, 4) * (i1 - i0, i1 - i0, j1 - j0, j1 - j0)
    above, below, left, right = (int(part) for part in room.round())
    return max(0, i0 - above), min(mask.shape[0], i1 + below), max(0, j0 - left), min(mask.shape[1], j1 + right)


def lengthwise_stroke(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bool stroke from one end of a part of the mask to the other, deep inside all the way, at times thicker."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    part = parts == 1 + rng.choice(count, p=np.bincount(parts.ravel())[1:] / mask.sum())
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    stroke = np.zeros_like(mask)
    stroke[np.unravel_index(depth.argmax(), mask.shape)] = True
    ends = _far_ends(part)
    if ends is not None:
        way, _ = route_through_array(np.where(part, 1 / (depth + 0.1) ** 2, -1), *ends, fully_connected=True)
        trimmed = way[len(way) // 10 : len(way) - len(way) // 10]  # people stop short of the tips
        stroke[tuple(np.array(trimmed).T)] = True
    return ndimage.binary_dilation(stroke) & mask if rng.random() < 0.5 else stroke


def _far_ends(part: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Two places of one connected part about as far from each other as its ways inside allow; None for a blob."""
    costs = np.where(part, 1.0, -1.0)
    start = tuple(np.argwhere(part)[0])
    ends = []
    for _ in range(2):
        lengths, _ = MCP_Geometric(costs).find_costs([start])
        start = np.unravel_index(int(np.where(part, lengths, -1).argmax()), part.shape)
        ends.append((int(start[0]), int(start[1])))
    return (ends[0], ends[1]) if lengths[start] >= LEAST_WAY else None


def scribble(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bool strokes of one to three segments between interior points, kept inside the mask, never empty."""
    strokes = np.zeros_like(mask)
    points = [interior_point(mask, rng) for _ in range(rng.integers(2, 5))]
    for start, end in pairwise(points):
        strokes[line(*start, *end)] = True
    if rng.random() < 0.5:
        strokes = ndimage.binary_dilation(strokes)
    strokes &= mask
    strokes[points[0]] = True
    return strokes


def corrective_click(prediction: np.ndarray, truth: np.ndarray) -> tuple[tuple[int, int], bool] | None:
    """The usual simulated clicker: centre of the largest error region, and whether it is foreground.

    Both arguments 2-D bool. None where there is no error.
    """
    missed, extra = truth & ~prediction, prediction & ~truth
    if not (missed.any() or extra.any()):
        return None
    largest_missed, largest_extra = (_largest_area(error) for error in (missed, extra))
    error, is_foreground = (missed, True) if largest_missed >= largest_extra else (extra, False)
    return deepest_point(error), is_foreground


def _largest_area(mask: np.ndarray) -> int:
    parts, count = ndimage.label(mask)
    return int(np.bincount(parts.ravel())[1:].max()) if count else 0
