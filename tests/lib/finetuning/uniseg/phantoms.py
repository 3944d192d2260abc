"""Labelled volumes that a tiny network learns in seconds: a bright ball beside a middling one in noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np

from lib.finetuning.labelled_study import LabelledStudy

NAMES = {"ball": 1, "stone": 2}
SHAPE = (24, 24, 12)


def study(
    folder: Path, seed: int, names: Mapping[str, int] = NAMES, channels: int = 1, offset: float = 0.0
) -> LabelledStudy:
    """Write a volume of 1 x 1 x 2 mm voxels and its label, which shows the structures in `names` alone."""
    rng = np.random.default_rng(seed)
    array, label = rng.normal(0, 5, SHAPE) + offset, np.zeros(SHAPE, np.uint8)
    places = np.indices(SHAPE)
    for name, low, grey in (("ball", 6, 100.0), ("stone", 16, 50.0)):
        centre = (rng.integers(low, low + 3), rng.integers(8, 16), rng.integers(5, 8))
        distance = [((axis - c) / r) ** 2 for axis, c, r in zip(places, centre, (4.5, 4.5, 3.0), strict=True)]
        inside = np.sum(distance, axis=0) < 1
        array[inside] += grey
        if name in names:
            label[inside] = names[name]
    values = array.astype(np.float32)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image, truth = folder / f"{seed}.nii.gz", folder / f"{seed}-label.nii.gz"
    nibabel.Nifti1Image(np.stack([values] * channels, axis=-1) if channels > 1 else values, affine).to_filename(image)
    nibabel.Nifti1Image(label, affine).to_filename(truth)
    return LabelledStudy(f"study {seed}", image, truth, dict(names), checksum=str(seed))
