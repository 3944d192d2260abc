"""A network for the structures of one study list: it needs no template and no prompt, and knows nothing else.

A plain U-Net (MONAI's DynUNet) that sees fine detail knows what One-Prompt, which sees every slice on 128 x 128 pixels,
cannot see: vessels and membranes above all (docs/finetuning.md). It never answers alone: its logits and One-Prompt's
are averaged. It is trained beside (`lib.finetuning.list_unet_training`) and heard where both together are better.

It works slice by slice, in the plane that `lib.imaging.volumes.Stack` chooses, with the two neighbouring slices as
further channels. A study whose label has only some of the structures says nothing about the others, as a template.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.dynunet import DynUNet
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lib.imaging.files import write_atomically
from lib.imaging.images import Image
from lib.imaging.transforms import normalise, resize_plane
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.networks.checkpoints import CheckpointError, hash_of
from lib.segmenters.second_opinion import SecondOpinion

FORMAT = "oneprompt-specialist-2"
PATCH = 128  # side of what the network sees at once, in pixels
LONGEST = (128, 256)  # a slice's longer side is brought between these, which bounds the time for large ones
FILTERS = (16, 32, 64, 96, 128)
NEIGHBOURS = 1  # slices on either side
BATCH = 8
CERTAIN = 30.0  # logits are kept in 16 bits, and nothing is surer than this


def make_network(structures: int) -> DynUNet:
    """An untrained network: (B, 3, H, W) to logits (B, K, H, W)."""
    levels = len(FILTERS)
    return DynUNet(
        spatial_dims=2,
        in_channels=1 + 2 * NEIGHBOURS,
        out_channels=structures,
        kernel_size=[3] * levels,
        strides=[1, *([2] * (levels - 1))],
        upsample_kernel_size=[2] * (levels - 1),
        filters=FILTERS,
    )


def working_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape that slices of (H, W) pixels are worked on in, before any padding."""
    scale = np.clip(max(shape), *LONGEST) / max(shape)
    height, width = (max(1, round(float(side * scale))) for side in shape)
    return height, width


def slices_of(stack: Stack) -> np.ndarray:
    """(N, h, w) float32 slices of `working_shape`, normalised over the whole image."""
    array = normalise(np.moveaxis(stack.array, stack.axis, 0))
    shape = working_shape(array.shape[1:])
    return np.stack([resize_plane(plane, shape) for plane in array])


def neighbours(indices: np.ndarray, count: int) -> np.ndarray:
    """(N,) of `count` slices to (N, 3): each between its neighbours; the first and last stand in for what is beyond."""
    return np.asarray(np.clip(indices[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1), 0, count - 1))


@torch.inference_mode()
def logits_of(network: nn.Module, slices: Sequence[np.ndarray]) -> Tensor:
    """(N, K, h, w) logits on the processor of slices (3, h, w) of one shape; the network is in evaluation mode then."""
    network.eval()
    images = torch.from_numpy(np.stack(slices).astype(np.float32)).to(next(network.parameters()).device)
    # Instance normalisation sees as much of an image as it did in training
    found = sliding_window_inference(images, (PATCH, PATCH), BATCH, network, overlap=0.5, mode="gaussian")
    assert isinstance(found, Tensor)
    return found.float().cpu()


@dataclass(frozen=True, eq=False)
class ListUNet:
    """A trained network and what it says.

    Attributes:
        network: in evaluation mode, on its device.
        structures: names of its channels.
        share: weight of its logits beside One-Prompt's, 0 to 1.
        record: JSON-able provenance: studies, scores before and after, and so on.
    """

    network: nn.Module
    structures: tuple[str, ...]
    share: float
    record: Mapping[str, Any]

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that change with any weight, the structures and the share."""
        return hash_of(json.dumps([self.structures, self.share]), self.network)

    def opinion(
        self, image: Image, names: Collection[str] | None = None, control: Control = Control()
    ) -> SecondOpinion:
        """What it says of an image.

        Args:
            names: structures wanted, of those that it knows; None for all.
            control: follows the batches and may end the work.
        """
        stack = Stack.of(image)
        slices = slices_of(stack)
        channels = [place for place, name in enumerate(self.structures) if names is None or name in names]
        logits = np.zeros((len(channels), *slices.shape), np.float16)
        for start in range(0, len(slices), BATCH):
            control.advance(start / len(slices))
            some = np.arange(start, min(start + BATCH, len(slices)))
            found = logits_of(self.network, list(slices[neighbours(some, len(slices))])).numpy()
            logits[:, some] = found[:, channels].swapaxes(0, 1).clip(-CERTAIN, CERTAIN)
        said = {self.structures[channel]: volume for channel, volume in zip(channels, logits, strict=True)}
        return SecondOpinion(stack, said, self.share)


def of_channels(network: nn.Module, channels: Sequence[int]) -> DynUNet:
    """A copy of a network of `make_network` with some of its structures alone, in evaluation mode on its device."""
    some = torch.as_tensor(channels)
    weights = {
        name: value[some.to(value.device)].clone() if name.startswith("output_block.") else value.clone()
        for name, value in network.state_dict().items()
    }
    copy = make_network(len(channels)).to(next(network.parameters()).device)
    copy.load_state_dict(weights)
    copy.requires_grad_(False).eval()
    return copy


def winners(logits: Tensor) -> Tensor:
    """Logits (N, K, H, W) to the number (from 1) of the largest one above the background's 0, or 0: (N, H, W)."""
    highest, place = logits.max(dim=1)
    return torch.where(highest > 0, place + 1, 0).to(torch.int32)


def save_specialist(path: Path, specialist: ListUNet) -> None:
    """Write weights, structures and record, whole or not at all."""
    # copies, because DynUNet holds each tensor under two names
    weights = specialist.network.state_dict()
    tensors = {name: value.detach().float().cpu().contiguous().clone() for name, value in weights.items()}
    told = {
        "structures": list(specialist.structures),
        "share": specialist.share,
        "record": dict(specialist.record),
    }
    write_atomically(path, save(tensors, {"format": FORMAT, "told": json.dumps(told)}))


def load_specialist(path: Path, device: str = "cpu") -> ListUNet:
    """Read a specialist. Raises CheckpointError for anything else."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = dict(_copies(file)) if metadata.get("format") == FORMAT else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} must be a specialist of format {FORMAT!r}, got {metadata.get('format')!r}")
    try:
        told = json.loads(metadata["told"])
        network = make_network(len(told["structures"]))
        network.load_state_dict(tensors)
        structures, share = tuple(map(str, told["structures"])), float(told["share"])
        record = dict(told["record"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} was written for another version of the network: {error}") from error
    return ListUNet(network.requires_grad_(False).eval().to(device), structures, share, record)


def _copies(file: Any) -> Iterator[tuple[str, Tensor]]:
    # tensors of a mapped file end the process when somebody overwrites that file in place
    return ((name, file.get_tensor(name).clone()) for name in file.keys())
