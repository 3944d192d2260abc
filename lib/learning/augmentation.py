"""Augmentation of an episode: what a task has in common, and what each of its samples has to itself.

Task augmentation (flips, quarter turns, other grey values, the structure's rim in place of the structure) is the same
for template and queries and makes new tasks of old ones; sample augmentation (pose, elastic deformation, contrast,
noise) differs within the episode and makes the network look for the structure and not for the picture. Everything
spatial is one resampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage


@dataclass(frozen=True)
class Strength:
    """How far samples of one episode may differ.

    Attributes:
        angle: standard deviation of the rotation in radians.
        scale: standard deviation of the logarithm of the zoom.
        shift: standard deviation of the translation in parts of the image.
        elastic: displacement of the elastic deformation in parts of the image.
        contrast: spread of gamma, brightness and bias field; noise and blur follow it.
    """

    angle: float = 0.15
    scale: float = 0.12
    shift: float = 0.05
    elastic: float = 0.015
    contrast: float = 0.25


RIMS = 0.06  # share of episodes about the rims of their structure

MILD = Strength()
STRONG = Strength(angle=0.35, scale=0.2, shift=0.1, elastic=0.03, contrast=0.45)


def augment(
    images: np.ndarray,
    masks: np.ndarray,
    rng: np.random.Generator,
    size: int,
    strength: Strength = MILD,
    new_task: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """One episode's images and masks (n, R, R) to float32 and bool (n, S, S); grey values are not normalised.

    Args:
        new_task: change what the samples have in common too; without it the task stays the one that it is.
    """
    turned = _task_affine(rng) if new_task else np.eye(2)
    focus = new_task and rng.random() < 0.2 and masks.any(axis=(1, 2)).all()
    grids = [_grid(turned, mask if focus else None, rng, size, strength) for mask in masks]
    pairs = torch.from_numpy(np.stack([images.astype(np.float32), masks.astype(np.float32)], axis=1))
    warped = F.grid_sample(pairs, torch.stack(grids), mode="bilinear", padding_mode="border", align_corners=False)
    curve = _task_curve(rng) if new_task else None
    greys = np.stack([_contrast(image, rng, strength.contrast, curve) for image in warped[:, 0].numpy()])
    moved_masks = warped[:, 1].numpy() > 0.5
    return greys, _rims(moved_masks, rng) if new_task and rng.random() < RIMS else moved_masks


def copy_of(
    image: np.ndarray, rng: np.random.Generator, size: int, strength: Strength = MILD
) -> tuple[np.ndarray, torch.Tensor]:
    """One image (R, R) as another patient's might look, never mirrored: float32 (S, S), and its grid for `moved`."""
    grid = _grid(np.eye(2), None, rng, size, strength)
    return _contrast(_sampled(image, grid), rng, strength.contrast, None), grid


def moved(mask: np.ndarray, grid: torch.Tensor) -> np.ndarray:
    """Bool (S, S): a mask or coverage (R, R) as it lies in the copy with this grid."""
    return _sampled(mask, grid) > 0.5


def _sampled(array: np.ndarray, grid: torch.Tensor) -> np.ndarray:
    tensor = torch.from_numpy(np.asarray(array, np.float32))[None, None]
    warped = F.grid_sample(tensor, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return np.asarray(warped[0, 0].numpy())


def smooth_noise(rng: np.random.Generator, size: int, cells: float, count: int = 1) -> np.ndarray:
    """(count, S, S) float32 unit-variance noise with about `cells` bumps along a side."""
    coarse = max(3, round(cells) + 2)
    noise = torch.from_numpy(rng.standard_normal((1, count, coarse, coarse), np.float32))
    field = F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=True)[0].numpy()
    return field / (field.std(axis=(1, 2), keepdims=True) + 1e-6)


def _task_affine(rng: np.random.Generator) -> np.ndarray:
    """(2, 2) flips, quarter turns and now and then a free rotation, the same for a whole episode."""
    affine = np.diag(rng.choice([-1.0, 1.0], 2))
    if rng.random() < 0.5:
        affine = affine[::-1]
    if rng.random() < 0.3:
        affine = affine @ _rotation(rng.uniform(-np.pi, np.pi))
    return affine * np.exp(rng.normal(0.05, 0.12))


def _grid(
    task: np.ndarray, focus: np.ndarray | None, rng: np.random.Generator, size: int, strength: Strength
) -> torch.Tensor:
    """(S, S, 2) sampling grid in grid_sample's frame: -1..1, the last array axis first."""
    own = _rotation(rng.normal(0, strength.angle)) * np.exp(rng.normal(0, strength.scale))
    centre = rng.normal(0, 2 * strength.shift, 2)
    if focus is not None:  # look closely at the structure, as the second pass of coarse to fine does
        place, zoom = _window(focus, rng)
        own, centre = own * zoom, place + zoom * centre
    line = (np.arange(size) + 0.5) * (2 / size) - 1
    where = np.stack(np.meshgrid(line, line, indexing="ij")).reshape(2, -1)
    where = (task @ own @ where).reshape(2, size, size) + centre[:, None, None]
    where += smooth_noise(rng, size, rng.uniform(2, 6), 2) * 2 * strength.elastic * rng.random()
    return torch.from_numpy(np.ascontiguousarray(where[::-1].transpose(1, 2, 0), np.float32))


def _window(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centre (-1..1) and zoom that make the structure fill a third to nine tenths of the view."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    extent = np.array([[rows.start, rows.stop], [columns.start, columns.stop]]) * (2 / mask.shape[0]) - 1
    side = float((extent[:, 1] - extent[:, 0]).max()) / 2
    return extent.mean(axis=1), float(np.clip(side / rng.uniform(0.35, 0.9), 0.15, 1.0))


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _task_curve(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A curve (knots, values) from grey values 0..1 to others, the same for a whole episode; None leaves them.

    One in seven inverts; one in four makes another modality of it: tissues keep apart but change their order.
    """
    kind = rng.random()
    if kind < 0.15:
        return np.array([0.0, 1.0]), np.array([1.0, 0.0])
    if kind > 0.4:
        return None
    inner = np.sort(rng.random(int(rng.integers(2, 6))))
    values = rng.random(len(inner) + 2)
    return np.concatenate([[0.0], inner, [1.0]]), np.sort(values) if rng.random() < 0.4 else values


def _rims(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, S, S) masks to their rims, walls and halos: what is ring-shaped is rare among the real tasks."""
    width = max(1, round(masks.shape[-1] * rng.uniform(0.012, 0.04)))
    inner, outer = [(width, 0), (0, width), (width, width)][rng.integers(3)]
    rims = np.zeros_like(masks)
    for rim, mask in zip(rims, masks, strict=True):
        grown = ndimage.binary_dilation(mask, iterations=outer) if outer else mask
        shrunk = ndimage.binary_erosion(mask, iterations=inner, border_value=1) if inner else mask
        rim[:] = grown & ~shrunk
    return rims


def _contrast(
    image: np.ndarray, rng: np.random.Generator, spread: float, curve: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    low, high = image.min(), image.max()
    grey = (image - low) / (high - low + 1e-6)
    grey = np.interp(grey, *curve) if curve is not None else grey
    grey = grey ** np.exp(rng.normal(0, spread))
    if rng.random() < 0.3:
        grey = grey * (1 + spread * rng.random() * smooth_noise(rng, len(grey), 2)[0])
    if rng.random() < 0.2:
        grey = ndimage.gaussian_filter(grey, rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:
        grey = grey + rng.normal(0, 0.25 * spread * rng.random(), grey.shape)
    return grey.astype(np.float32)
