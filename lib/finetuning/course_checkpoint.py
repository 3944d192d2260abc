"""A course's checkpoint: after a kill the same training goes on from its last whole epoch.

One safetensors file, weights and optimiser in it, never unpickled. Its key names studies, settings and what it began
from: a checkpoint of any other training is not taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib.finetuning.course import Course
from lib.imaging.files import write_atomically

logger = logging.getLogger(__name__)


FORMAT = 2  # of what a course's `state` says


def key_of(course: Course) -> str:
    """Changes with everything that the result depends on."""
    data = sorted((study.id, study.checksum) for study in course.studies)
    parts = [FORMAT, *course.identity, data, course.seed, course.share[1]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def save_progress(path: Path, course: Course) -> None:
    """Write the checkpoint, whole or not at all."""
    tensors, record = course.state()
    # copies, because a network may hold one tensor under two names, as MONAI's DynUNet does
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, save(tensors, {"key": key_of(course), "told": json.dumps(record)}))


def load_progress(path: Path, course: Course) -> bool:
    """Let a course go on from its checkpoint; False where there is none of the same training."""
    if not path.exists():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key_of(course):
                return False
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        course.restore(tensors, json.loads(metadata["told"]))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        logger.warning("%s is no usable checkpoint, training begins anew: %s", path, error)
        return False
    return True
