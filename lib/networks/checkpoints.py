"""Weights on disk: safetensors with the configuration and the history inside.

A file of another configuration, a torn file or a file without a configuration is refused with its reason; nothing
is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lib.imaging.files import write_atomically
from lib.networks import NetworkConfig, OnePrompt

SHIPPED_WEIGHTS = Path(__file__).resolve().parents[2] / "apps" / "oneprompt" / "weights" / "oneprompt_small.safetensors"
FORMAT = "oneprompt-1"


class CheckpointError(ValueError):
    """A weights file that cannot be used."""


def save_network(path: str | Path, network: OnePrompt, provenance: Mapping[str, Any]) -> None:
    """Write weights (float32), configuration and provenance (JSON-able) to `path`, whole or not at all."""
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(network.config.as_dict()),
        "provenance": json.dumps(dict(provenance)),
    }
    write_atomically(path, save(tensors, metadata))


def load_network(path: str | Path, device: str | torch.device = "cpu") -> OnePrompt:
    """Read a network in evaluation mode. Raises CheckpointError where the file does not hold a fitting One-Prompt."""
    metadata, tensors = _read(path)
    try:
        config = NetworkConfig.from_dict(json.loads(metadata["config"]))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} was written for another version of the network: {error}") from error
    with torch.device("meta"):
        network = OnePrompt(config)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not hold the weights of its configuration {config.name!r}: {reason}"
        ) from error
    return network.requires_grad_(False).eval().to(device)


def average_networks(paths: Sequence[str | Path]) -> OnePrompt:
    """The mean of the weights of several runs from one start, a "soup" (Wortsman et al., ICML 2022), to evaluate.

    Runs that draw other episodes on processes of their own can be joined so, without waiting for each other.

    Raises:
        CheckpointError: a file that cannot be used, or files of different configurations.
    """
    first, *others = [load_network(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if other.config != first.config:
            raise CheckpointError(f"weights to be averaged must share a configuration: {paths[0]} and {path} do not")
    states = [network.state_dict() for network in (first, *others)]
    first.load_state_dict({name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]})
    return first


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance that `save_network` stored: data, command, parent, metrics."""
    metadata, _ = _read(path, tensors=False)
    found: dict[str, Any] = json.loads(metadata.get("provenance", "{}"))
    return found


def weights_hash(network: OnePrompt) -> str:
    """12 hexadecimal digits that change with the configuration and with any weight."""
    return hash_of(json.dumps(network.config.as_dict(), sort_keys=True), network)


def hash_of(about: str, network: nn.Module) -> str:
    """12 hexadecimal digits that change with a text and with any weight."""
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(path: str | Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        raise CheckpointError(f"weights must be a safetensors file, {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # copies, because tensors of a mapped file end the process when somebody overwrites that file in place
            values = {name: file.get_tensor(name).clone() for name in file.keys()} if tensors else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must be One-Prompt weights of format {FORMAT!r}, got {metadata.get('format')!r}: "
            "make one with python -m scripts.pretrain"
        )
    return metadata, values
