"""What must hold before MONAI Label works: the right packages and the right settings.

`python -m infers.environment` checks the packages without importing any of them, because the wrong ones break
MONAI Label's own imports long before an app is loaded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"

# Each of these was seen to break MONAI Label 0.8.5. Other differences from requirements.txt are only worth a warning.
BREAKS = {
    "monai": (">=1.5,<1.6", "Spacingd of MONAI 1.6 fails on the image path that MONAI Label adds to its data"),
    "pydicom": ("<3", "pydicom-seg 0.4.1, which MONAI Label imports at start, needs a module that pydicom 3 dropped"),
    "dicomweb-client": ("<0.60", "dicomweb-client 0.60 imports names that only pydicom 3 has"),
    "pynetdicom": ("<3", "pynetdicom 3 needs pydicom 3"),
    "numpy": ("<2", "numpymaxflow and pydicom-seg are built for NumPy 1"),
}

IMAGE_EXTENSIONS = (
    ".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".mha", ".mhd", ".nhdr", ".hdr",
)  # fmt: skip
SEGMENTATION_EXTENSIONS = (".seg.nrrd", ".dcm")  # labels that are no images
IMAGE_PATTERNS = tuple(f"*{extension}" for extension in IMAGE_EXTENSIONS)


class EnvironmentProblem(RuntimeError):
    """Packages with which MONAI Label cannot run; the message has the command that puts it right."""


def check_packages(installed: Callable[[str], str | None] | None = None) -> list[str]:
    """Compare the installed packages with requirements.txt.

    Returns:
        Warnings, one sentence each, for versions other than the pinned ones that are not known to break anything.

    Raises:
        EnvironmentProblem: a package is missing or known to break; says which, why, and the command to run.
    """
    installed = installed or _installed_version
    problems, commands, warnings = [], [], []
    for requirement, reason in requirements(REQUIREMENTS.read_text().splitlines()):
        version = installed(requirement.name)
        breaks = BREAKS.get(requirement.name.lower())
        if version is None:
            problems.append(f"{requirement.name} is not installed{reason and f' ({reason})'}")
            commands.append(str(requirement))
        elif breaks and Version(version) not in Requirement(requirement.name + breaks[0]).specifier:
            problems.append(f"{requirement.name} {version} is installed, {breaks[0]} is needed: {breaks[1]}")
            commands.append(str(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            warnings.append(f"{requirement.name} {version} is installed, {requirement} is what was tested")
    if problems:
        wanted = " ".join(f"'{command}'" for command in commands)
        raise EnvironmentProblem(
            "MONAI Label cannot run with these packages:\n  - "
            + "\n  - ".join(problems)
            + f"\nInstall the tested ones with:\n  {sys.executable} -m pip install {wanted}"
        )
    return warnings


def requirements(lines: Iterable[str]) -> list[tuple[Requirement, str]]:
    """The requirements among the lines of a requirements file, each with the reason given in its comment or ''."""
    lines_and_reasons = []
    for line in lines:
        text, _, reason = line.partition("#")
        if text.strip() and not text.strip().startswith("-"):
            lines_and_reasons.append((Requirement(text.strip()), reason.strip()))
    return [(requirement, reason) for requirement, reason in lines_and_reasons if _applies(requirement)]


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def put_root_first(root: Path) -> None:
    """Make `root` importable here and in every process started from here (training, its spawned workers)."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(root), *others]))


def main() -> int:
    """Print what is wrong with the installed packages; 0 where MONAI Label can run."""
    try:
        warnings = check_packages()
    except EnvironmentProblem as problem:
        print(re.sub(r"^", "  ", str(problem), flags=re.MULTILINE).strip())
        return 1
    print("\n".join(warnings) or "All packages are as tested.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
