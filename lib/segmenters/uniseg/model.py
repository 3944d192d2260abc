"""A UniSeg model: a network with its tasks and where it comes from, and the one file that holds all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lib.networks.checkpoints import CheckpointError, load_network, read_provenance, save_network, weights_hash
from lib.networks.uniseg import UniSeg
from lib.segmenters.uniseg.tasks import Task

TASKS = "tasks"  # key of the record


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

    @property
    def provenance(self) -> dict[str, Any]:
        """The record with the tasks, as it stands in a weights file."""
        return {**self.record, TASKS: [task.as_dict() for task in self.tasks]}

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the configuration and with any weight."""
        return weights_hash(self.network)

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with configuration, weights and tasks."""
        content = json.dumps([self.hash, *(task.as_dict() for task in self.tasks)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def save_model(path: str | Path, model: UniSegModel) -> None:
    """Write weights, configuration, tasks and record to `path`, whole or not at all."""
    save_network(path, model.network, model.provenance)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> UniSegModel:
    """Read a model in evaluation mode. Raises CheckpointError where the file does not hold a UniSeg."""
    network = load_network(path, device, UniSeg)
    record = read_provenance(path)
    try:
        tasks = tuple(Task.from_dict(task) for task in record.pop(TASKS))
        return UniSegModel(network, tasks, record)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not say what its tasks are: {error!r}") from error
