"""Data sets in one file: what training reads of them, at its own size, to travel with the code.

A pack is a NumPy archive (`.npz`): grey values in 256 steps, label maps, and a JSON table. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.imaging.files import write_atomically
from lib.learning.datasets import DatasetError
from lib.learning.episodes import RealTasks

FORMAT = "oneprompt-pack-1"
SUFFIX = ".npz"


def write_pack(path: str | Path, splits: Mapping[str, Sequence[RealTasks]]) -> int:
    """Write tasks by split to `path`, whole or not at all; returns its size in bytes."""
    arrays: dict[str, np.ndarray] = {}
    table: list[dict[str, object]] = []
    for split, tasks in splits.items():
        for one in tasks:
            number = len(table)
            low, high = one.images.min(axis=(1, 2)), one.images.max(axis=(1, 2))
            steps = (one.images - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None] * 255
            arrays[f"{number}.grey"], arrays[f"{number}.labels"] = steps.round().astype(np.uint8), one.labels
            arrays[f"{number}.range"] = np.stack([low, high])
            table.append({"name": one.name, "split": split, "subjects": one.subjects.tolist()})
    about = json.dumps({"format": FORMAT, "sets": table}).encode()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.frombuffer(about, np.uint8), **arrays)
    write_atomically(path, buffer.getvalue())
    return buffer.tell()


def read_pack(path: str | Path) -> dict[str, list[RealTasks]]:
    """Tasks by split. Raises DatasetError where the file is no whole pack."""
    splits: dict[str, list[RealTasks]] = {}
    try:
        with np.load(path, allow_pickle=False) as pack:
            about = json.loads(pack["about"].tobytes())
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}")
            for number, one in enumerate(about["sets"]):
                low, high = pack[f"{number}.range"][:, :, None, None].astype(np.float32)
                grey = pack[f"{number}.grey"].astype(np.float32) / 255 * (high - low) + low
                tasks = RealTasks(one["name"], grey, pack[f"{number}.labels"], np.array(one["subjects"]))
                splits.setdefault(one["split"], []).append(tasks)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} must be a whole pack of data sets, as scripts.pretrain --pack writes it: {error}"
        ) from error
    return splits
