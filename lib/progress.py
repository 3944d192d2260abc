"""A fine-tuning's checkpoint: after a kill the same training goes on from its last whole epoch.

One safetensors file, weights and optimiser in it, never unpickled. Its key names parent, studies and settings: a
checkpoint of any other training is not taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib.checkpoints import weights_hash
from lib.files import write_atomically
from lib.finetuning import FineTune

logger = logging.getLogger(__name__)


def key_of(tuning: FineTune) -> str:
    """Changes with everything that the result depends on."""
    settings = dataclasses.asdict(tuning.settings)
    data = sorted((study.id, study.checksum) for study in tuning.studies)
    parts = [weights_hash(tuning.parent), data, settings, tuning.seed, tuning.share[1]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def save_progress(path: Path, tuning: FineTune) -> None:
    """Write the checkpoint, whole or not at all."""
    tensors, told = tuning.state()
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, save(tensors, {"key": key_of(tuning), "told": json.dumps(told)}))


def load_progress(path: Path, tuning: FineTune) -> bool:
    """Let a fine-tuning go on from its checkpoint; False where there is none of the same training."""
    if not path.exists():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key_of(tuning):
                return False
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        tuning.restore(tensors, json.loads(metadata["told"]))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        logger.warning("%s is no usable checkpoint, training begins anew: %s", path, error)
        return False
    return True
