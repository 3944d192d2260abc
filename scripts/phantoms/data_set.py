"""Phantoms as a data set: a folder with images/, labels/ and dataset.json."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel

from lib.imaging.files import write_atomically
from scripts.phantoms.anatomy import LABELS
from scripts.phantoms.phantom import make_phantom

SHAPE, SPACING = (48, 48, 20), (8.0, 8.0, 11.0)  # a whole torso that a small network sees in one window


def write_data_set(folder: Path, modality: str, count: int) -> None:
    """Write so many phantoms; a folder that is complete already stays as it is.

    Args:
        folder: made where it is missing.
        modality: CT, MR or PT.
        count: number of phantoms, each of another patient.

    Raises:
        ValueError: another modality.
    """
    about = folder / "dataset.json"
    if about.exists() and json.loads(about.read_text())["n"] >= count:
        return
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        # the same number in another modality is another patient
        phantom = make_phantom((number, *modality.encode()), SHAPE, SPACING, modality=modality)
        for part, array in (("images", phantom.array), ("labels", phantom.label)):
            nibabel.Nifti1Image(array, phantom.affine).to_filename(folder / part / f"{number:03d}.nii.gz")
    labels = {str(value): name for name, value in LABELS.items()}
    write_atomically(about, json.dumps({"modality": modality, "labels": labels, "n": count}).encode())
