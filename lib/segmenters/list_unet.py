"""A network for the structures of one study list: it needs no template and no prompt, and knows nothing else.

A plain U-Net (`lib.networks.list_unet`) that sees fine detail knows what One-Prompt, which sees every slice on
128 x 128 pixels, cannot see: vessels and membranes above all (docs/finetuning.md). It never answers alone: its logits
and One-Prompt's are averaged (`ListUNetSegmenter`). It is trained beside (`lib.finetuning.list_unet_training`) and used
where both together are better.

It works slice by slice, in the plane that `lib.imaging.volumes.Stack` chooses, with the two neighbouring slices as
further channels. A study whose label has only some of the structures says nothing about the others, as a template.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from lib.imaging.images import Image
from lib.imaging.transforms import normalise, resize_plane
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.networks.answers import finite
from lib.networks.checkpoints import CheckpointError, hash_of, load_network, read_provenance, save_network
from lib.networks.list_unet import NEIGHBOURS, ListUNetNetwork
from lib.segmenters.beside import Beside
from lib.segmenters.contract import Prediction, Segmenter
from lib.segmenters.registry import LIST_UNET_MODEL
from lib.segmenters.second_opinion import SecondOpinion

PATCH = 128  # side of what the network sees at once, in pixels
LONGEST = (128, 256)  # a slice's longer side is brought between these, which bounds the time for large ones
BATCH = 8
CERTAIN = 30.0  # logits are kept in 16 bits, and nothing is surer than this
WEIGHT = "share"  # in the record of a file: the network's weight beside One-Prompt


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
    logits = sliding_window_inference(images, (PATCH, PATCH), BATCH, network, overlap=0.5, mode="gaussian")
    assert isinstance(logits, Tensor)
    logits = logits.float().cpu()
    finite(logits.numpy())
    return logits


@dataclass(frozen=True, eq=False)
class ListUNet:
    """A trained network and its weight beside One-Prompt.

    Attributes:
        network: in evaluation mode, on its device.
        weight: of its logits beside One-Prompt's, 0 to 1.
        record: JSON-able provenance: studies, scores before and after, and so on.
    """

    network: ListUNetNetwork
    weight: float
    record: Mapping[str, Any]

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the network's channels."""
        return self.network.config.structures

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that change with any of the network's weights, the structures and `weight`."""
        return hash_of(json.dumps([self.structures, self.weight]), self.network)

    def opinion(
        self, image: Image, names: Collection[str] | None = None, control: Control = Control()
    ) -> SecondOpinion:
        """Its logits on an image.

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
            own = logits_of(self.network, list(slices[neighbours(some, len(slices))])).numpy()
            logits[:, some] = own[:, channels].swapaxes(0, 1).clip(-CERTAIN, CERTAIN)
        volumes = {self.structures[channel]: volume for channel, volume in zip(channels, logits, strict=True)}
        return SecondOpinion(stack, volumes, self.weight)


class GivesOpinions(Protocol):
    """What is needed of a `ListUNet`."""

    @property
    def structures(self) -> tuple[str, ...]: ...
    @property
    def weight(self) -> float: ...
    @property
    def hash(self) -> str: ...
    def opinion(
        self, image: Image, names: Collection[str] | None = None, control: Control = Control()
    ) -> SecondOpinion: ...


class TakesOpinions(Segmenter, Protocol):
    """A segmenter by templates that listens to a second opinion (`SliceSegmenter`)."""

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
        second: SecondOpinion | None = None,
    ) -> Prediction: ...


class ListUNetSegmenter(Beside):
    """One-Prompt with a list-specific U-Net beside it; a `lib.segmenters.contract.Segmenter`.

    Structures that the U-Net did not learn are answered by the templates alone, and so are prompts.

    Args:
        by_templates: One-Prompt.
        unet: on the same device.
    """

    model = LIST_UNET_MODEL

    def __init__(self, by_templates: TakesOpinions, unet: GivesOpinions) -> None:
        super().__init__(by_templates, unet.hash)
        self.by_templates, self.unet = by_templates, unet

    def segment(
        self, image: Image, templates: Sequence[Template], labels: Mapping[str, int], *, control: Control = Control()
    ) -> Prediction:
        """See `Segmenter`."""
        names = sorted(set(self.unet.structures) & set(labels))
        if not names:
            return self.by_templates.segment(image, templates, labels, control=control)
        second = self.unet.opinion(image, names, control.part(0, 0.1))
        prediction = self.by_templates.segment(image, templates, labels, control=control.part(0.1, 1), second=second)
        used = {"weights": self.unet.hash, WEIGHT: self.unet.weight, "structures": names}
        record = {**prediction.provenance, "model": self.model.name, "specialist": used}
        return replace(prediction, provenance=record)


def of_channels(network: ListUNetNetwork, channels: Sequence[int]) -> ListUNetNetwork:
    """A copy of a network with some of its structures alone, in evaluation mode on its device."""
    some = torch.as_tensor(channels)
    weights = {
        name: value[some.to(value.device)].clone() if name.startswith("output_block.") else value.clone()
        for name, value in network.state_dict().items()
    }
    structures = tuple(network.config.structures[channel] for channel in channels)
    copy = ListUNetNetwork(replace(network.config, structures=structures)).to(next(network.parameters()).device)
    copy.load_state_dict(weights)
    copy.requires_grad_(False).eval()
    return copy


def winners(logits: Tensor) -> Tensor:
    """Logits (N, K, H, W) to the number (from 1) of the largest one above the background's 0, or 0: (N, H, W)."""
    highest, place = logits.max(dim=1)
    return torch.where(highest > 0, place + 1, 0).to(torch.int32)


def save_list_unet(path: Path, unet: ListUNet) -> None:
    """Write network, weight and record, whole or not at all."""
    save_network(path, unet.network, {**unet.record, WEIGHT: unet.weight})


def load_list_unet(path: Path, device: str = "cpu") -> ListUNet:
    """Read a list-specific U-Net. Raises CheckpointError for anything else."""
    network, record = load_network(path, device, ListUNetNetwork), read_provenance(path)
    try:
        return ListUNet(network, float(record.pop(WEIGHT)), record)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} was written for another version of the network: {error!r}") from error
