"""A small study list to torture a server with: no two volumes have one shape, so no answer passes for another."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import requests
import torch

from lib.networks import NetworkConfig, OnePrompt
from lib.networks.checkpoints import save_network

AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])
TINY = NetworkConfig(
    name="torture", image_size=32, channels=(4, 8, 16, 16, 16), blocks=(1, 1, 1, 1), head_channels=8, max_keys=16,
    prompt_channels=4, correspondence_channels=8, decoder_channels=(8, 8),
)  # fmt: skip


def shape_of(number: int) -> tuple[int, int, int]:
    """(I, J, K) of study `number`."""
    return (20 + number, 24, 6)


def write_studies(folder: Path, count: int) -> list[str]:
    """Volumes with a bright ellipsoid each; their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shape = shape_of(number)
        grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
        inside = sum(grid**2 for grid in grids) < 0.3
        noise = np.random.default_rng(number).normal(0, 1, shape)
        nibabel.save(nibabel.Nifti1Image((noise + 6 * inside).astype(np.float32), AFFINE), folder / f"s{number}.nii.gz")
    return [f"s{number}" for number in range(count)]


def label_file(number: int, seed: int) -> tuple[bytes, np.ndarray]:
    """A label map of study `number` that no other seed gives, as the bytes of a `.nii.gz`, and its voxels."""
    mask = (np.random.default_rng(seed).random(shape_of(number)) > 0.5).astype(np.uint8)
    return gzip.compress(nibabel.Nifti1Image(mask, AFFINE).to_bytes(), 1), mask


def write_weights(path: Path) -> Path:
    """Untrained weights that answer in milliseconds: what is tortured is the server, not the network."""
    torch.manual_seed(0)
    save_network(path, OnePrompt(TINY), {"command": "scripts.torture"})
    return path


def middle(number: int) -> tuple[int, int, int]:
    """(i, j, k) of the voxel in the middle of study `number`."""
    i, j, k = shape_of(number)
    return (i // 2, j // 2, k // 2)


def click(url: str, number: int, timeout: float = 150, place: Sequence[int] | None = None) -> requests.Response:
    """A click into study `number`, by default into its middle, answered with an NRRD mask."""
    params = {"foreground": [list(place or middle(number))], "label": "organ",
              "result_extension": ".nrrd", "result_compress": False}  # fmt: skip
    return requests.post(f"{url}/infer/oneprompt_click", params={"image": f"s{number}", "output": "image"},
                         data={"params": json.dumps(params)}, timeout=timeout)  # fmt: skip
