"""Tasks that exist nowhere: random anatomies, deformed and imaged in many ways, for pretraining.

A task is a few "subjects" that share an arrangement of structures and the way structures look, and differ in pose,
shape and noise, as patients do. Five families, because real tasks come in these kinds: partitions (tissue maps),
organs in a body (several of them alike), cells scattered anew in every image, branching vessels, and lesions at
random places. Contrast is drawn at random, so that no weights can lean on what a modality usually looks like.

Given real images they become part of it: their grain fills structures that exist nowhere (`synthetic_task`), and
structures that exist nowhere are put into them (`foreign_bodies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.learning.augmentation import smooth_noise


@dataclass(frozen=True)
class SyntheticTask:
    """`subjects` images with their label maps.

    Attributes:
        images: float32 (n, S, S), grey values in about 0..1.
        labels: uint8 (n, S, S), 0 background; the same value is the same structure in every subject.
        family: which kind of anatomy this is.
    """

    images: np.ndarray
    labels: np.ndarray
    family: str


def synthetic_task(
    rng: np.random.Generator, size: int = 160, subjects: int = 4, grains: Sequence[np.ndarray] = ()
) -> SyntheticTask:
    """Draw one task; the same generator state gives the same task.

    Args:
        grains: for each kind of image some of them, float32 (m, S, S); every second task takes its textures from
            some of these.
    """
    family = str(rng.choice(list(FAMILIES), p=[0.25, 0.35, 0.16, 0.08, 0.16]))
    labels = FAMILIES[family](rng, size, subjects)
    real = [grains[n] for n in rng.integers(len(grains), size=3)] if len(grains) and rng.random() < 0.5 else None
    return SyntheticTask(_images(labels, rng, real), labels, family)


def foreign_bodies(images: np.ndarray, grains: np.ndarray, rng: np.random.Generator) -> SyntheticTask:
    """Real images (n, S, S) with up to three kinds of structures put into them; value 1 is in every one.

    Each kind has its shape, its look and its place, about the same in all images or anywhere; so the background is
    that of real patients, and what is asked for is as mmr_selection as synthetic tasks are.

    Args:
        grains: float32 (m, S, S), images whose texture the structures have.
    """
    size = images.shape[-1]
    pictures = images.astype(np.float32).copy()
    labels = np.zeros(images.shape, np.uint8)
    for value in range(int(rng.integers(1, 4)), 0, -1):
        radius = size * np.exp(rng.uniform(np.log(0.03), np.log(0.18)))
        shape = _organ_shape(rng, size, np.full(2, size / 2), radius)
        home, roams = rng.uniform(0.2, 0.8, 2) * size, rng.random() < 0.4
        level, strength = rng.normal(0, 1.5), rng.uniform(0.3, 1.0)
        grain, soft = rng.uniform(0, 0.8), rng.uniform(0.3, 1.5)
        for picture, map_ in zip(pictures, labels, strict=True):
            body = np.zeros((size, size), bool)
            for _ in range(int(rng.integers(1, 4)) if roams else 1):
                place = rng.uniform(0.1, 0.9, 2) * size if roams else home + rng.normal(0, 0.03 * size, 2)
                body |= ndimage.shift(deform(shape, rng, 0.03), place - size / 2, order=0)
            brightness = level + rng.normal(0, 0.15) + grain * _grain(grains, rng, size)
            opacity = strength * ndimage.gaussian_filter(body.astype(np.float32), soft)
            picture += opacity * (brightness - picture)
            map_[body] = value
    return SyntheticTask(pictures, labels, "foreign")


def deform(labels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """One label map (S, S) under a random similarity and a smooth displacement of about `strength` of its side."""
    size = labels.shape[0]
    angle, scale = rng.normal(0, 0.12), np.exp(rng.normal(0, 0.1))
    shift = rng.normal(0, 0.04 * size, 2)
    centred = np.mgrid[:size, :size].reshape(2, -1) - (size - 1) / 2
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    where = (rotation @ centred + (size - 1) / 2).reshape(2, size, size) + shift[:, None, None]
    for cells in (2.5, 6.0):
        where += smooth_noise(rng, size, cells, 2) * strength * size * rng.uniform(0.2, 1.0) / np.sqrt(cells)
    return ndimage.map_coordinates(labels, where, order=0, mode="nearest")


def _partition(rng: np.random.Generator, size: int, subjects: int) -> np.ndarray:
    count = int(rng.integers(3, 12))
    fields = smooth_noise(rng, size, rng.uniform(2, 8), count)
    own = rng.uniform(0.0, 0.6)  # how much of the arrangement each subject has to itself
    outline = _blob(rng, size, (size / 2, size / 2), size * rng.uniform(0.3, 0.6)) if rng.random() < 0.6 else None
    maps = []
    for _ in range(subjects):
        mixed = fields + own * smooth_noise(rng, size, rng.uniform(3, 8), count)
        labels = (mixed.argmax(axis=0) + (outline is not None)).astype(np.uint8)
        if outline is not None:
            labels[~outline] = 0
        maps.append(deform(labels, rng, rng.uniform(0.02, 0.08)))
    return np.stack(maps)


def _organs(rng: np.random.Generator, size: int, subjects: int) -> np.ndarray:
    atlas = np.zeros((size, size), np.uint8)
    centre = size / 2 + rng.normal(0, 0.04 * size, 2)
    reach = size * rng.uniform(0.32, 0.55)
    body = _blob(rng, size, centre, reach)
    atlas[body] = 1
    value = 2
    for _ in range(int(rng.integers(3, 12))):
        place = centre + rng.normal(0, 0.45, 2) * reach
        radius = size * np.exp(rng.uniform(np.log(0.03), np.log(0.2)))
        shape = _organ_shape(rng, size, place, radius)
        atlas[shape & body] = value
        style = rng.random()
        if style < 0.3:  # its mirror image: the other kidney, the other lung; at times a structure of its own
            mirrored = shape[:, ::-1] if rng.random() < 0.8 else shape[::-1]
            atlas[mirrored & body] = value if rng.random() < 0.4 else value + 1
            value += 1
        elif style < 0.45:  # a wall around it
            wall = ndimage.binary_dilation(shape, iterations=int(rng.integers(2, 6))) & ~shape
            atlas[wall & body] = value + 1
            value += 1
        value += 1
    return np.stack([deform(atlas, rng, rng.uniform(0.02, 0.09)) for _ in range(subjects)])


def _cells(rng: np.random.Generator, size: int, subjects: int) -> np.ndarray:
    radius = size * np.exp(rng.uniform(np.log(0.025), np.log(0.16)))
    count = int(np.clip(rng.uniform(0.1, 0.6) * size**2 / (np.pi * radius**2), 1, 60))
    elongation, wobble = rng.uniform(1, 2), rng.uniform(0, 0.3)
    core, decoys = rng.uniform(0.3, 0.7), rng.random() < 0.5
    maps = np.zeros((subjects, size, size), np.uint8)
    for labels in maps:
        for number in range(count):
            place = rng.uniform(0, size, 2)
            scale = radius * np.exp(rng.normal(0, 0.15))
            value = 3 if decoys and number % 3 == 2 else 1
            if value == 3:
                scale *= 0.6
            _paint(labels, rng, place, scale, elongation, wobble, value)
            if value == 1:
                _paint(labels, rng, place + rng.normal(0, 0.15 * scale, 2), core * scale, 1.2, wobble, 2)
    return maps


def _vessels(rng: np.random.Generator, size: int, subjects: int) -> np.ndarray:
    branches, width = int(rng.integers(3, 14)), rng.uniform(1.0, 4.0)
    wander, thick = rng.uniform(0.05, 0.25), rng.random() < 0.5
    maps = np.zeros((subjects, size, size), np.uint8)
    for labels in maps:
        for number in range(branches):
            steps = int(size * rng.uniform(0.4, 1.2))
            heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, wander, steps))
            path = rng.uniform(0, size, (2, 1)) + np.cumsum([np.cos(heading), np.sin(heading)], axis=1)
            inside = ((path >= 0) & (path < size)).all(axis=0)
            i, j = path[:, inside].astype(int)
            course = np.ones((size, size), bool)
            course[i, j] = False
            if len(i):
                radius = width * rng.uniform(0.6, 1.4)
                labels[ndimage.distance_transform_edt(course) <= radius] = 2 if thick and number % 3 == 0 else 1
    return maps


def _lesions(rng: np.random.Generator, size: int, subjects: int) -> np.ndarray:
    anatomy = (_partition if rng.random() < 0.5 else _organs)(rng, size, subjects)
    lesion = int(anatomy.max()) + 1
    host = int(rng.integers(1, lesion)) if rng.random() < 0.6 else None
    radius = size * np.exp(rng.uniform(np.log(0.03), np.log(0.15)))
    for labels in anatomy:
        hosts = np.argwhere(labels == host) if host is not None else np.argwhere(labels > 0)
        for _ in range(int(rng.integers(1, 4))):
            place = hosts[rng.integers(len(hosts))] if len(hosts) else rng.uniform(0.2, 0.8, 2) * size
            scale = radius * np.exp(rng.normal(0, 0.35))
            _paint(labels, rng, place, scale, rng.uniform(1, 1.8), 0.25, lesion)
    return anatomy


FAMILIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "partition": _partition,
    "organs": _organs,
    "cells": _cells,
    "vessels": _vessels,
    "lesions": _lesions,
}


def _organ_shape(rng: np.random.Generator, size: int, place: np.ndarray, radius: float) -> np.ndarray:
    kind = rng.random()
    if kind < 0.7:
        return _blob(rng, size, place, radius)
    if kind < 0.85:  # a ring or a crescent
        hole = place + rng.normal(0, 0.35 * radius, 2)
        return _blob(rng, size, place, radius) & ~_blob(rng, size, hole, rng.uniform(0.5, 0.8) * radius)
    chain = np.zeros((size, size), bool)  # a row of similar parts: vertebrae, ribs, teeth
    step = rng.normal(0, 1, 2)
    step *= 1.6 * radius / (np.linalg.norm(step) + 1e-6)
    for number in range(int(rng.integers(2, 6))):
        chain |= _blob(rng, size, place + number * step, 0.6 * radius)
    return chain


def _blob(rng: np.random.Generator, size: int, place: tuple[float, float] | np.ndarray, radius: float) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    _paint(canvas, rng, np.asarray(place, float), radius, np.exp(abs(rng.normal(0, 0.35))), rng.uniform(0, 0.35), 1)
    return canvas.astype(bool)


def _paint(
    canvas: np.ndarray,
    rng: np.random.Generator,
    place: np.ndarray,
    radius: float,
    elongation: float,
    wobble: float,
    value: int,
) -> None:
    """Draw an ellipse with a wavy outline in place; only the window around it is touched."""
    size = canvas.shape[0]
    reach = radius * elongation * (1 + 1.5 * wobble) + 1
    low = np.clip(np.floor(place - reach).astype(int), 0, size)
    high = np.clip(np.ceil(place + reach).astype(int) + 1, 0, size)
    if (low >= high).any():
        return
    di = np.arange(low[0], high[0])[:, None] - place[0]
    dj = np.arange(low[1], high[1])[None] - place[1]
    turn = rng.uniform(0, np.pi)
    along, across = di * np.cos(turn) + dj * np.sin(turn), dj * np.cos(turn) - di * np.sin(turn)
    distance = np.hypot(along / elongation, across)
    bearing = np.arctan2(across, along)
    outline = np.ones_like(bearing)
    for waves in range(2, 6):
        outline += wobble * rng.normal(0, 1 / waves) * np.cos(waves * bearing + rng.uniform(0, 2 * np.pi))
    canvas[low[0] : high[0], low[1] : high[1]][distance < radius * np.clip(outline, 0.3, 2.5)] = value


def _grain(grains: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """(S, S) what is fine in one of the real images, anywhere and any way round, with unit variance."""
    image = grains[rng.integers(len(grains))]
    fine = image - ndimage.gaussian_filter(image, size / 12)
    fine = np.rot90(np.roll(fine, rng.integers(size, size=2), (0, 1)), rng.integers(4))
    return (fine / (fine.std() + 1e-6)).astype(np.float32)


def _images(labels: np.ndarray, rng: np.random.Generator, real: Sequence[np.ndarray] | None) -> np.ndarray:
    """Label maps (n, S, S) to images (n, S, S): one look for the task, with some freedom for each subject."""
    subjects, size = labels.shape[:2]
    structures = int(labels.max()) + 1
    means = rng.uniform(0, 1, structures)
    if rng.random() < 0.5:
        means[0] = rng.choice([0.0, 1.0, 0.5])
    grain = np.abs(rng.normal(0, 0.12 if real is None else 0.25, structures))
    texture_cells = np.exp(rng.uniform(np.log(8), np.log(size / 2), 3))
    texture_of = rng.integers(0, 3, structures)
    freedom, noise = rng.uniform(0, 0.12), np.abs(rng.normal(0, 0.06))
    blur, speckle = rng.uniform(0, 1.4), rng.random() < 0.2
    edges = rng.normal(0, 0.3) if rng.random() < 0.25 else 0.0
    images = np.empty((subjects, size, size), np.float32)
    for image, map_ in zip(images, labels, strict=True):
        own = (means + rng.normal(0, freedom, structures)).astype(np.float32)
        if real is None:
            textures = np.concatenate([smooth_noise(rng, size, cells) for cells in texture_cells])
        else:
            textures = np.stack([_grain(kind, rng, size) for kind in real])
        picked = np.take_along_axis(textures, texture_of[map_][None], axis=0)[0]
        picture = own[map_] + grain.astype(np.float32)[map_] * picked
        if edges:
            border = ndimage.morphological_gradient(map_, size=3) > 0
            picture = picture + np.float32(edges) * border
        picture = ndimage.gaussian_filter(picture, blur)
        picture *= 1 + 0.15 * rng.random() * smooth_noise(rng, size, 2)[0]
        grains = rng.standard_normal((size, size), np.float32)
        picture += noise * (grains * picture * 3 if speckle else grains)
        image[:] = picture
    return images
