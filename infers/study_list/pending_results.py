"""Interactive results that wait to become final labels, each in one file, so that a killed server loses none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import KeptFile, Write, array_bytes, read_arrays, write_atomically

_SUFFIX = ".npz"


@dataclass
class PendingResult:
    """The newest results for one study.

    Attributes:
        masks: {structure: bool array of the image's shape}.
        provenance: what made the newest of them.
        user: who asked for the newest of them.
    """

    masks: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    user: str = ""


class PendingResults:
    """A folder of pending results, one file a study.

    Args:
        folder: made when the first result comes.
        write: replaces a file in it.
    """

    def __init__(self, folder: Path, write: Write = write_atomically) -> None:
        self._folder, self._write = folder, write

    def put(self, image_id: str, result: PendingResult) -> None:
        """Keep a result, whole or not at all."""
        self._file(image_id).write(result)

    def remove(self, image_id: str) -> None:
        """Forget a result; fine where there is none."""
        self._file(image_id).path.unlink(missing_ok=True)

    def read(self) -> Iterator[tuple[str, PendingResult]]:
        """(study, result) of everything that waits; what cannot be read is set aside."""
        for path in sorted(self._folder.glob(f"[!.]*{_SUFFIX}")):
            image_id = path.name.removesuffix(_SUFFIX)
            if result := self._file(image_id).read():
                yield image_id, result

    def _file(self, image_id: str) -> KeptFile[PendingResult]:
        return KeptFile(self._folder / f"{image_id}{_SUFFIX}", _load, _dump, self._write)


def _load(path: Path) -> PendingResult:
    arrays = read_arrays(path)
    about = json.loads(str(arrays["about"]))
    masks = {name: arrays[f"mask{number}"] for number, name in enumerate(about["names"])}
    return PendingResult(masks, about["provenance"], about.get("user", ""))


def _dump(result: PendingResult) -> bytes:
    about = {"names": list(result.masks), "provenance": result.provenance, "user": result.user}
    arrays = {f"mask{number}": mask for number, mask in enumerate(result.masks.values())}
    return array_bytes({"about": np.array(json.dumps(about, default=str)), **arrays}, compress=True)
