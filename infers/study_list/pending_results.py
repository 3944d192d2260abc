"""Interactive results that wait to become final labels, each in one file, so that a killed server loses none."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import write_atomically

logger = logging.getLogger(__name__)

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
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, image_id: str, result: PendingResult) -> None:
        """Keep a result, whole or not at all."""
        about = {"names": list(result.masks), "provenance": result.provenance, "user": result.user}
        arrays = {f"mask{number}": mask for number, mask in enumerate(result.masks.values())}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(json.dumps(about, default=str)), **arrays)
        write_atomically(self._path(image_id), buffer.getvalue())

    def remove(self, image_id: str) -> None:
        """Forget a result; fine where there is none."""
        self._path(image_id).unlink(missing_ok=True)

    def read(self) -> Iterator[tuple[str, PendingResult]]:
        """(study, result) of everything that waits; what cannot be read is set aside."""
        for path in sorted(self._folder.glob(f"[!.]*{_SUFFIX}")):
            try:
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as entries:
                    about = json.loads(str(entries["about"]))
                    masks = {name: entries[f"mask{number}"] for number, name in enumerate(about["names"])}
                yield path.name.removesuffix(_SUFFIX), PendingResult(masks, about["provenance"], about.get("user", ""))
            except Exception as error:  # a zip file can be broken in many ways
                logger.error("%s holds no result that can be read, it is kept as .broken: %s", path, error)
                path.replace(path.with_suffix(".broken"))

    def _path(self, image_id: str) -> Path:
        return self._folder / f"{image_id}{_SUFFIX}"
