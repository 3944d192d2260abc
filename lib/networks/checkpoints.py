"""Weights on disk: safetensors with the architecture, the configuration and the history inside.

A file of an unknown architecture or of another configuration, a torn file or a file without a configuration is refused
with its reason; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lib.imaging.files import write_atomically
from lib.networks import OnePrompt
from lib.networks.answers import not_finite
from lib.networks.architectures import ARCHITECTURES, LIST_UNET, ONE_PROMPT, Architecture, architecture_of
from lib.networks.contract import SliceModel
from lib.plain_json import plain_json

SHIPPED_WEIGHTS = Path(__file__).resolve().parents[2] / "apps" / "oneprompt" / "weights" / "oneprompt_small.safetensors"
FORMAT = "oneprompt-1"
LARGEST = 4096  # number in a configuration
FORMER_LIST_UNET = "oneprompt-specialist-2"  # of list-specific U-Nets, until their headers named the architecture

Network = TypeVar("Network", bound=nn.Module)


class CheckpointError(ValueError):
    """A weights file that cannot be used."""


def save_network(
    path: str | Path, network: nn.Module, provenance: Mapping[str, Any], kind: torch.dtype = torch.float32
) -> None:
    """Write weights, architecture, configuration and provenance (JSON-able) to `path`, whole or not at all.

    Args:
        kind: how the weights are stored; `torch.float16` takes half the room. They are read as float32 either way.

    Raises:
        ValueError: a network of no registered architecture.
    """
    # copies, because a network may hold a tensor under two names, as MONAI's DynUNet does
    tensors = {
        name: value.detach().to("cpu", kind).contiguous().clone() for name, value in network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "architecture": architecture_of(network).name,
        "config": json.dumps(_config_of(network).as_dict()),
        "provenance": json.dumps(dict(provenance)),
    }
    write_atomically(path, save(tensors, metadata))


@overload
def load_network(path: str | Path, device: str | torch.device = "cpu") -> OnePrompt: ...
@overload
def load_network(path: str | Path, device: str | torch.device, kind: type[Network]) -> Network: ...
def load_network(path: str | Path, device: str | torch.device = "cpu", kind: type[nn.Module] = OnePrompt) -> nn.Module:
    """Read a network in evaluation mode.

    Args:
        kind: what it must be; `torch.nn.Module` for a network of any registered architecture.

    Raises:
        CheckpointError: the file holds no such network, or a damaged one.
    """
    header, tensors = _read(path)
    known = header.architecture
    if not issubclass(known.network, kind):
        wanted = next(other.name for other in ARCHITECTURES.values() if other.network is kind)
        raise CheckpointError(f"{path} must hold a network of the architecture {wanted!r}, got {known.name!r}")
    try:
        config = known.read_config(_bounded(json.loads(header.config)))
        with torch.device("meta"):
            network = known.network(config)
    except Exception as error:  # whatever a configuration of somebody else's brings
        raise CheckpointError(f"{path} was written for another version of the network: {error}") from error
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not hold the weights of its configuration {config.name!r}: {reason}"
        ) from error
    return network.requires_grad_(False).eval().to(device, torch.float32)


def average_networks(paths: Sequence[str | Path], kind: type[Network]) -> Network:
    """The mean of the weights of several runs from one start, a "soup" (Wortsman et al., ICML 2022), to evaluate.

    Runs that draw other episodes on processes of their own can be joined so, without waiting for each other.

    Raises:
        CheckpointError: a file that cannot be used, or files of different configurations.
    """
    first, *others = [load_network(path, "cpu", kind) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if _config_of(other) != _config_of(first):
            raise CheckpointError(f"weights to be averaged must share a configuration: {paths[0]} and {path} do not")
    states = [network.state_dict() for network in (first, *others)]
    first.load_state_dict({name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]})
    return first


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance that `save_network` stored: data, command, parent, metrics."""
    return _read(path, tensors=False)[0].provenance


def read_architecture(path: str | Path) -> Architecture:
    """The architecture of the network in a file. Raises CheckpointError for one that is unknown."""
    return _read(path, tensors=False)[0].architecture


def weights_hash(network: nn.Module | SliceModel) -> str:
    """12 hexadecimal digits that change with the configuration and with any weight."""
    return hash_of(json.dumps(_config_of(network).as_dict(), sort_keys=True), network)


def hash_of(about: str, network: nn.Module | SliceModel, kind: torch.dtype = torch.float32) -> str:
    """12 hexadecimal digits that change with a text and with any weight, in the precision that is given."""
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", kind).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def encoder_hash(network: nn.Module | SliceModel) -> str:
    """12 hexadecimal digits that networks with the same image encoder share, whatever else is in them.

    Weights are compared as 16 bits, since one of the files may have been written so. A network without an image
    encoder of its own is taken whole.
    """
    encoder = getattr(network, "image_encoder", network)
    return hash_of("image encoder", encoder, torch.float16)


@dataclass(frozen=True)
class _Header:
    """What a file says of its network; `config` is JSON."""

    architecture: Architecture
    config: str
    provenance: dict[str, Any]


def _read(path: str | Path, tensors: bool = True) -> tuple[_Header, dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        raise CheckpointError(f"weights must be a safetensors file, {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # copies, because tensors of a mapped file end the process when somebody overwrites that file in place
            values = {name: file.get_tensor(name).clone() for name in file.keys()} if tensors else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if wrong := not_finite(values, path):
        raise CheckpointError(wrong)
    try:
        return _header(path, metadata), values
    except CheckpointError:
        raise
    except Exception as error:  # texts of any kind, nested as deep as somebody likes
        raise CheckpointError(f"{path} was written for another version of the network: {error!r}") from error


def _header(path: str | Path, metadata: Mapping[str, str]) -> _Header:
    if metadata.get("format") == FORMER_LIST_UNET:
        record = json.loads(metadata["told"])
        about = {**dict(record["record"]), "share": float(record["share"])}
        return _Header(LIST_UNET, json.dumps({"structures": record["structures"]}), about)
    if "architecture" not in metadata and metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must hold weights of format {FORMAT!r}, got {metadata.get('format')!r}: make One-Prompt weights "
            "with python -m scripts.pretrain"
        )
    name = metadata.get("architecture", ONE_PROMPT.name)  # files of earlier releases name none
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} must hold a network of one of the architectures {', '.join(ARCHITECTURES)}, got {name!r}: "
            "it was written by a newer version of this app, or by something else"
        )
    return _Header(
        ARCHITECTURES[name], metadata["config"], dict(plain_json(json.loads(metadata.get("provenance", "{}"))))
    )


def _bounded(config: Any) -> Any:
    """A configuration whose numbers a network can have: one of a billion blocks would never be made."""
    todo = [config]
    while todo:
        value = todo.pop()
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"its numbers may be {LARGEST} at most, got {value}")
    return config


def _config_of(network: nn.Module | SliceModel) -> Any:
    """The configuration that a network of a registered architecture keeps."""
    return network.config
