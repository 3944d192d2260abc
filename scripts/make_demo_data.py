"""Makes a study list of phantoms that needs no download: `python -m scripts.make_demo_data OUT`.

    OUT/studies/         what an annotator gets: ID.nii.gz, and DICOM series as folders ID (their SeriesInstanceUID)
    OUT/truth/           what they should find: ID.nii.gz, on the same voxel grids
    OUT/dataset.json     name of each label value, and how the list was made

Studies differ in anatomy, pose, contrast, noise, shading, voxel size, direction of the axes; some are oblique. The same
arguments give the same files.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.command_line import parser_of
from scripts.phantoms.anatomy import LABELS
from scripts.phantoms.dicom_series import make_uid, write_series
from scripts.phantoms.phantom import TISSUES, Phantom, make_phantom

DEFAULT_SIZE = (96, 96, 24)
MIXED = ("CT", "MR")  # what OHIF offers its MONAI Label mode for
_FIELD_OF_VIEW = (370.0, 370.0, 210.0)  # mm
_SMALLEST = (24, 24, 6)  # voxels; below that organs vanish
_UNUSUAL_AXES = {3: "RAS", 5: "LAS"}  # by number modulo 6; the others are as an axial scanner gives them


@dataclass(frozen=True)
class DemoStudy:
    """How one study of the list is scanned and stored."""

    id: str
    patient: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    modality: str
    axes: str
    tilt: tuple[float, float, float]
    dicom: bool


def plan_studies(count: int, seed: int, size: tuple[int, int, int], modality: str) -> list[DemoStudy]:
    """The list's `count` studies; every fourth a DICOM series, and every second of those oblique.

    A study does not depend on how many follow it. modality: CT, MR, or mixed.
    """
    if count < 1:
        raise ValueError(f"the number of studies must be 1 or more, got {count}")
    if any(n < least for n, least in zip(size, _SMALLEST, strict=True)):
        raise ValueError(f"size must be at least {_SMALLEST} voxels, got {size}")
    if modality not in (*TISSUES, "mixed"):
        raise ValueError(f"modality must be {', '.join(TISSUES)} or mixed, got {modality!r}")
    return [_plan_study(number, seed, size, modality) for number in range(count)]


def write_demo_data(
    out: Path, count: int = 12, seed: int = 0, size: tuple[int, int, int] = DEFAULT_SIZE, modality: str = "CT"
) -> list[DemoStudy]:
    """Writes the study list to `out`, whole or not at all; raises FileExistsError where one is already."""
    plan = plan_studies(count, seed, size, modality)
    _write_plan(out, list(enumerate(plan)), seed)
    return plan


def write_demo_series(
    out: Path, count: int, seed: int = 0, size: tuple[int, int, int] = DEFAULT_SIZE, modality: str = "CT"
) -> list[DemoStudy]:
    """As `write_demo_data`, but only the first `count` studies that are DICOM series, every second oblique."""
    chosen = [
        (number, study) for number, study in enumerate(plan_studies(4 * count, seed, size, modality)) if study.dicom
    ]
    _write_plan(out, chosen, seed)
    return [study for _, study in chosen]


def _write_plan(out: Path, plan: list[tuple[int, DemoStudy]], seed: int) -> None:
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} must be a new or empty folder, and it holds files: name another, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for number, study in plan:
            _write_study(made, study, _scan_study(number, seed, study))
        (made / "dataset.json").write_text(json.dumps(_describe([study for _, study in plan], seed), indent=1) + "\n")
        made.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _plan_study(number: int, seed: int, size: tuple[int, int, int], modality: str) -> DemoStudy:
    rng = np.random.default_rng((seed, number, 0))
    shape = (size[0], size[1], int(size[2] * rng.uniform(0.9, 1.1)))
    field = np.asarray(_FIELD_OF_VIEW) * rng.uniform(0.95, 1.1, 3)
    in_plane = float(np.round(max(field[0] / shape[0], field[1] / shape[1]), 3))
    spacing = (in_plane, in_plane, float(np.round(field[2] / shape[2], 3)))
    dicom = number % 4 == 2
    oblique = number % 8 == 6 or number % 8 == 3
    a, b, c = rng.uniform(-12, 12, 3) if oblique else np.zeros(3)
    # Mixed lists alternate, also among the DICOM series, of which one comes in each four studies
    own = modality if modality != "mixed" else MIXED[(number + number // 4) % len(MIXED)]
    axes = "LPS" if dicom else _UNUSUAL_AXES.get(number % 6, "LPS")
    patient = f"phantom_{number + 1:03d}"
    name = str(make_uid("demo", str(seed), patient)) if dicom else patient
    return DemoStudy(name, patient, shape, spacing, own, axes, (float(a), float(b), float(c)), dicom)


def _scan_study(number: int, seed: int, study: DemoStudy) -> Phantom:
    return make_phantom(
        (seed, number, 1), study.shape, study.spacing, modality=study.modality, axes=study.axes, tilt=study.tilt
    )


def _write_study(out: Path, study: DemoStudy, phantom: Phantom) -> None:
    if study.dicom:
        write_series(
            out / "studies" / study.id,
            phantom.array,
            phantom.affine,
            uid=study.id,
            patient=study.patient,
            modality=study.modality,
        )
    else:
        _write_nifti(out / "studies" / f"{study.id}.nii.gz", phantom.array, phantom.affine)
    _write_nifti(out / "truth" / f"{study.id}.nii.gz", phantom.label, phantom.affine)


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def _describe(plan: list[DemoStudy], seed: int) -> dict[str, object]:
    return {
        "name": "phantoms",
        "dims": 3,
        "modality": ", ".join(sorted({study.modality for study in plan})),
        "anatomy": "torso (made from formulas)",
        "labels": {str(value): name for name, value in LABELS.items()},
        "licence": "made by this project, under its licence",
        "n": len(plan),
        "seed": seed,
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of("make_demo_data", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--studies", type=int, default=12, metavar="N", help="how many (default 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other patients (default 0)")
    parser.add_argument("--size", type=int, nargs=3, default=DEFAULT_SIZE, metavar=("I", "J", "K"), help="voxels")
    parser.add_argument("--modality", default="CT", choices=[*TISSUES, "mixed"], help="(default CT)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        plan = write_demo_data(options.out, options.studies, options.seed, tuple(options.size), options.modality)
    except (ValueError, FileExistsError, NotADirectoryError) as error:
        print(f"make_demo_data: {error}", file=sys.stderr)
        return 2
    series = sum(study.dicom for study in plan)
    print(f"{options.out}: {len(plan)} studies, {series} of them DICOM series; truth in {options.out / 'truth'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
