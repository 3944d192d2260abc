"""What a process would compute with: workers whose answer differs from the driver's are refused.

Two checkouts of one version are the same only if every file of code is, and masks depend on the libraries too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from lib import VERSION
from lib.cluster.connection import ROOT

CODE = ("lib", "infers", "scripts/archive")
PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "SimpleITK", "nibabel", "pydicom")


@dataclass(frozen=True)
class Identity:
    """The code of a process.

    Attributes:
        version: of this project.
        code: hash of its files.
        packages: name and version of what the masks depend on.
    """

    version: str
    code: str
    packages: tuple[tuple[str, str], ...]

    def differences(self, other: Identity) -> list[str]:
        """What `other` would have to install to be the same, a sentence each."""
        differences = []
        if self.code != other.code:
            differences.append(
                f"its code is {other.version} ({other.code}) and must be {self.version} ({self.code}): install the "
                "same checkout, or the same container image"
            )
        theirs = dict(other.packages)
        differences += [
            f"{name} is {theirs.get(name)}: pip install {name}=={version}"
            for name, version in self.packages
            if theirs.get(name) != version
        ]
        return differences


@cache
def own_identity() -> Identity:
    """Of this process."""
    digest = hashlib.sha256()
    for name, content in _files():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return Identity(VERSION, digest.hexdigest()[:16], tuple((name, _version(name)) for name in PACKAGES))


def _files() -> Iterator[tuple[str, bytes]]:
    for package in CODE:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_bytes()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
