"""Torso phantoms: three-dimensional studies with known organs, made from a seed alone.

The anatomy is in `anatomy.py`; here a patient is posed, sliced on a grid and scanned. `Variation` says how far one
study differs from the next: with all zeros every seed shows the same body in the same place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from scripts.phantoms.anatomy import LABELS, Array, Torso

# Mean brightness and its spread between studies. CT: Hounsfield units, so that contrast agent is the main difference;
# MR: arbitrary units in the order of a T2-weighted scan.
_CT: Mapping[str, tuple[float, float]] = {
    "air": (-1000, 0),
    "fat": (-100, 8),
    "muscle": (55, 6),
    "lung": (-820, 35),
    "heart": (130, 30),
    "liver": (105, 16),
    "spleen": (115, 18),
    "kidney": (165, 30),
    "pelvis": (90, 50),
    "vessel": (150, 40),
    "bone": (280, 45),
    "disc": (95, 12),
    "canal": (25, 6),
    "stomach": (25, 25),
    "bowel": (40, 15),
    "gas": (-900, 20),
}
_MR: Mapping[str, tuple[float, float]] = {
    "air": (0, 0),
    "fat": (620, 60),
    "muscle": (180, 25),
    "lung": (35, 10),
    "heart": (220, 40),
    "liver": (270, 35),
    "spleen": (480, 50),
    "kidney": (600, 60),
    "pelvis": (850, 70),
    "vessel": (80, 25),
    "bone": (400, 45),
    "disc": (330, 70),
    "canal": (900, 50),
    "stomach": (700, 150),
    "bowel": (420, 80),
    "gas": (10, 5),
}
_PT: Mapping[str, tuple[float, float]] = {  # uptake
    "air": (0, 0),
    "fat": (40, 6),
    "muscle": (90, 12),
    "lung": (50, 8),
    "heart": (500, 150),
    "liver": (300, 35),
    "spleen": (240, 30),
    "kidney": (700, 150),
    "pelvis": (900, 150),
    "vessel": (180, 20),
    "bone": (130, 25),
    "disc": (70, 10),
    "canal": (60, 10),
    "stomach": (160, 40),
    "bowel": (200, 60),
    "gas": (10, 3),
}
TISSUES: Mapping[str, Mapping[str, tuple[float, float]]] = {"CT": _CT, "MR": _MR, "PT": _PT}
_NOISE = {"CT": 14.0, "MR": 22.0, "PT": 20.0}
_SCAN_CENTRE = (0.0, 0.0, -25.0)  # the place in the average patient that lies at the origin of the world


@dataclass(frozen=True)
class Variation:
    """How much studies differ; standard deviations unless said otherwise."""

    scale: float = 0.06  # body size, a factor an axis
    turn: float = 4.0  # pose, degrees about each axis
    shift: float = 7.0  # pose, mm
    organ_shift: float = 4.0  # each organ's own place, mm
    organ_scale: float = 0.08  # each organ's own size, a factor an axis
    bend: float = 5.0  # smooth deformation of everything, mm
    contrast: float = 1.0  # share of the tissues' own spread
    noise: float = 1.0  # 1 is a usual scan
    shading: float = 0.3  # MR coil shading: the largest relative change


@dataclass(frozen=True)
class Phantom:
    """One study. array (I, J, K) int16 with i fastest in a file, label (I, J, K) uint8 with values as in LABELS,
    affine (4, 4) voxel index to RAS mm, modality CT, MR or PT (PET)."""

    array: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    modality: str


def make_phantom(
    seed: int | tuple[int, ...],
    shape: tuple[int, int, int] = (96, 96, 24),
    spacing: tuple[float, float, float] = (4.0, 4.0, 9.0),
    *,
    modality: str = "CT",
    axes: str = "LPS",
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
    variation: Variation | None = None,
) -> Phantom:
    """The patient of this seed on a grid of `shape` voxels of `spacing` mm. The same arguments give the same bytes.

    axes, tilt: as in `grid_affine`. Raises ValueError for a modality other than CT, MR and PT.
    """
    if modality not in TISSUES:
        raise ValueError(f"modality must be one of {', '.join(TISSUES)}, got {modality!r}")
    variation = variation or Variation()
    rng = np.random.default_rng(seed)
    affine = grid_affine(shape, spacing, axes, tilt)
    position = _pose(rng, _voxel_positions(shape, affine), variation)
    torso = Torso(position, rng, variation.organ_shift, variation.organ_scale)

    brightness = {t: m + variation.contrast * s * rng.normal() for t, (m, s) in TISSUES[modality].items()}
    clean = np.full(shape, brightness["air"])
    label = np.zeros(shape, np.uint8)
    for layer in torso.layers():
        clean[layer.mask] = brightness[layer.tissue]
        label[layer.mask] = LABELS.get(layer.structure, 0)
    array = _scan(rng, clean, position, modality, variation)
    return Phantom(array, label, affine, modality)


def grid_affine(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    axes: str = "LPS",
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float64]:
    """Voxel index to RAS mm for a grid centred on the origin.

    axes: where i, j and k point, one letter of R/L, A/P, S/I each ("LPS": an axial DICOM series).
    tilt: degrees about x, y and z; not zero for an oblique scan.
    """
    pairs = ("RL", "AP", "SI")
    rows = [next((r for r, pair in enumerate(pairs) if letter in pair), -1) for letter in axes]
    if sorted(rows) != [0, 1, 2]:
        raise ValueError(f"axes must name each of R/L, A/P and S/I once, such as LPS, got {axes!r}")
    direction = np.zeros((3, 3))
    for column, (row, letter) in enumerate(zip(rows, axes, strict=True)):
        direction[row, column] = 1 if letter in "RAS" else -1
    affine = np.eye(4)
    affine[:3, :3] = _rotation(np.asarray(tilt)) @ direction * np.asarray(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def _voxel_positions(shape: tuple[int, int, int], affine: Array) -> Array:
    """(3, I, J, K) RAS mm of every voxel's centre."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return np.einsum("ab,bijk->aijk", affine[:3, :3], index) + affine[:3, 3, None, None, None]


def _pose(rng: np.random.Generator, world: Array, variation: Variation) -> Array:
    """World positions in the patient's own frame: the pose undone, then a smooth bend."""
    turn = _rotation(rng.normal(0, variation.turn, 3))
    scale = np.exp(rng.normal(0, variation.scale, 3))[:, None, None, None]
    shift = (rng.normal(0, variation.shift, 3) - _SCAN_CENTRE)[:, None, None, None]
    own = np.einsum("ba,bijk->aijk", turn, world - shift) / scale
    return own + variation.bend * _waves(rng, own)


def _rotation(degrees: Array) -> Array:
    (a, b, c), (sa, sb, sc) = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, a, -sa], [0, sa, a]])
    about_y = np.array([[b, 0, sb], [0, 1, 0], [-sb, 0, b]])
    about_z = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _waves(rng: np.random.Generator, position: Array, count: int = 4) -> Array:
    """A smooth random field (3, I, J, K) of about unit size: a few long waves in random directions."""
    total = np.zeros_like(position)
    for _ in range(count):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        cycles = np.einsum("a,aijk->ijk", direction, position) / rng.uniform(120, 260) + rng.uniform()
        total += rng.normal(size=(3, 1, 1, 1)) * np.sin(2 * np.pi * cycles)
    return total * np.sqrt(2 / count)


def _scan(
    rng: np.random.Generator, clean: Array, position: Array, modality: str, variation: Variation
) -> NDArray[np.int16]:
    """Tissue brightness as a scanner shows it: blurred edges, texture, coil shading (MR) and noise."""
    image = gaussian_filter(clean, (0.6, 0.6, 0.3))
    noise = variation.noise * _NOISE[modality] * np.exp(rng.normal(0, 0.25))
    texture = gaussian_filter(rng.normal(size=clean.shape), (1.2, 1.2, 0.4))
    if modality == "MR":
        inside = clean > 1
        image = image * (1 + 0.12 * variation.noise * inside * texture / texture.std())
        field = _waves(rng, position)[0]
        image = image * (1 + variation.shading * field / np.abs(field).max())
        # A magnitude image: noise in air is positive
        image = np.hypot(image + rng.normal(0, noise, image.shape), rng.normal(0, noise, image.shape))
    else:
        image = image + 0.5 * noise * texture / texture.std() + rng.normal(0, noise, image.shape)
        image = np.maximum(image, -1024 if modality == "CT" else 0)
    return np.rint(image).astype(np.int16)
