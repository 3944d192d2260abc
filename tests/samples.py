"""Small things that many tests need: a tiny network, and images with a bright organ in them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nrrd
import numpy as np

from lib.networks import NetworkConfig
from lib.networks.promptseg import PromptSegConfig

TINY = NetworkConfig(
    name="tiny",
    image_size=32,
    channels=(4, 8, 16, 16, 16),
    blocks=(1, 1, 1, 1),
    head_channels=8,
    max_keys=16,
    prompt_channels=4,
    correspondence_channels=8,
    decoder_channels=(8, 8),
)
TINY_PROMPTSEG = PromptSegConfig(
    name="tiny-promptseg",
    encoder=NetworkConfig(
        image_size=32, design="patch", channels=(8, 32, 32, 32), blocks=(1, 1, 1, 1), decoder_channels=(16,)
    ),
    depth=1,
    task_tokens=2,
    task_channels=8,
    prompt_tokens=16,
    most_templates=4,
)
AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0, 3, -12], [0, 1.25, 0, 7], [0, 0, 0, 1]])  # coronal slices


def organ_volume(seed: int, shape: tuple[int, ...] = (24, 20, 8)) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright ellipsoid in it, float32, and its mask, uint8 0 and 1."""
    rng = np.random.default_rng(seed)
    centre = [n / 2 + rng.uniform(-1, 1) for n in shape]
    grids = np.meshgrid(*map(np.arange, shape), indexing="ij")
    mask = sum(((g - c) / (0.3 * n)) ** 2 for g, c, n in zip(grids, centre, shape, strict=True)) < 1
    return (rng.normal(0, 1, shape) + 6 * mask).astype(np.float32), mask.astype(np.uint8)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Save an array as NIfTI and return the path."""
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def segmentation(path: Path, mask: np.ndarray, affine: np.ndarray, name: str = "Kidney", value: int = 4) -> Path:
    """One structure as 3D Slicer saves it: cropped to what it shows, with its name and place in the header."""
    low = np.array([indices.min() for indices in np.nonzero(mask)])
    high = np.array([indices.max() + 1 for indices in np.nonzero(mask)])
    origin = affine[:3, :3] @ low + affine[:3, 3]
    lps = np.diag([-1.0, -1, 1])
    header = {
        "space": "left-posterior-superior",
        "space directions": (lps @ affine[:3, :3]).T,
        "space origin": lps @ origin,
        "kinds": ["domain"] * 3,
        "Segment0_ID": "Segment_1",
        "Segment0_Name": name,
        "Segment0_LabelValue": str(value),
        "Segment0_Layer": "0",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, low)),
    }
    cropped = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    nrrd.write(str(path), (cropped * value).astype(np.uint8), header, index_order="F")
    return path
