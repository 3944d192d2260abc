"""A UniSeg model: a network with its tasks and where it comes from, and the one file that holds all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib.imaging.files import write_atomically
from lib.networks.checkpoints import CheckpointError, hash_of
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.tasks import Task

ARCHITECTURE = "uniseg"
FORMAT = "uniseg-1"


@dataclass(frozen=True, eq=False)
class UniSegModel:
    """A trained network with its tasks.

    Attributes:
        network: in evaluation mode, on its device.
        tasks: by the network's index.
        record: JSON-able provenance: data, command, scores, licence ...

    Raises:
        ValueError: network and tasks do not belong together.
    """

    network: UniSeg
    tasks: tuple[Task, ...]
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        config = self.network.config
        if len(self.tasks) != config.tasks or len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError(
                f"a network of {config.tasks} tasks needs as many different names, got "
                f"{', '.join(task.name for task in self.tasks) or 'none'}"
            )
        for task in self.tasks:
            if len(task.structures) >= config.outputs:
                raise ValueError(
                    f"{task.name} has {len(task.structures)} structures, and the network {config.outputs} outputs with "
                    "the background's"
                )
            if len(task.channels) not in config.channels:
                raise ValueError(
                    f"{task.name} has {len(task.channels)} channels, and the network takes "
                    f"{' or '.join(map(str, config.channels))}"
                )

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of all structures, each once, in the order of the tasks."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.structures))

    @property
    def licence(self) -> str:
        """Under which the weights may be used; "" where nothing is known."""
        return str(self.record.get("licence", ""))

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that change with any weight, the configuration and the tasks."""
        tasks = [task.as_dict() for task in self.tasks]
        return hash_of(json.dumps([self.network.config.as_dict(), tasks], sort_keys=True), self.network)


def save_model(path: str | Path, model: UniSegModel) -> None:
    """Write weights (float32), configuration, tasks and record to `path`, whole or not at all."""
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "config": json.dumps(model.network.config.as_dict()),
        "tasks": json.dumps([task.as_dict() for task in model.tasks]),
        "provenance": json.dumps(dict(model.record)),
    }
    write_atomically(path, save(tensors, metadata))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> UniSegModel:
    """Read a model in evaluation mode. Raises CheckpointError where the file does not hold a UniSeg."""
    if not Path(path).is_file():
        raise CheckpointError(f"weights must be a safetensors file, {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # copies, because tensors of a mapped file end the process when somebody overwrites that file in place
            own = metadata.get("format") == FORMAT
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()} if own else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if not own:
        raise CheckpointError(
            f"{path} must be UniSeg weights of format {FORMAT!r}, got {metadata.get('format')!r}: make one with "
            "python -m scripts.import_uniseg, or by training"
        )
    try:
        config = UniSegConfig.from_dict(json.loads(metadata["config"]))
        tasks = tuple(Task.from_dict(task) for task in json.loads(metadata["tasks"]))
        record = dict(json.loads(metadata["provenance"]))
        with torch.device("meta"):
            network = UniSeg(config)
        network.load_state_dict(tensors, assign=True)
        return UniSegModel(network.requires_grad_(False).eval().to(device), tasks, record)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise CheckpointError(f"{path} was written for another version of the network: {reason}") from error
