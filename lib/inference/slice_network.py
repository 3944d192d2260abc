"""The network on slices of volumes: batches, precision, and the cache of what it has encoded.

Encoding takes most of the time and depends on the slice alone, so an encoded slice is kept and found again by the
image's checksum, the stack's axis, the resolution and the slice's index: the second click on an image and the hundredth
query of a template encode nothing. A cache belongs to one network; other weights have another `SliceNetwork`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor, nn

from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import normalise, resize_image
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.networks.answers import finite
from lib.networks.contract import Features, SliceModel, WeighingModel

PRODUCTS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Question:
    """One structure on one slice.

    Attributes:
        query: features of the slice to segment, each level (C, h, w).
        template: features of the template slice; the same object in the interactive mode. Of K template slices that
            answer together (`together`), each level (K, C, h, w).
        template_maps: float32 (2, 5, S, S) prompt maps on the template slice, or (K, 2, 5, S, S).
        query_maps: float32 (2, 5, S, S) on the query slice, None for no prompt.
    """

    query: Features
    template: Features
    template_maps: np.ndarray
    query_maps: np.ndarray | None = None

    @classmethod
    def together(cls, query: Features, templates: Sequence[Features], maps: Sequence[np.ndarray]) -> Question:
        """The question to one or more template slices that the network reads in one pass."""
        if len(templates) == 1:
            return cls(query, templates[0], maps[0])
        return cls(query, tuple(_stacked(levels) for levels in zip(*templates, strict=True)), np.stack(maps))


class SliceNetwork:
    """A network with its batches and its cache; safe to share between threads.

    Args:
        network: in evaluation mode, on `device`.
        batch_size: slices or questions that pass the network at once.
        precision: float32, bfloat16, or auto for bfloat16 where the hardware computes in it.
        cache_bytes: room for encoded slices; the least recently used go first.

    Attributes:
        size: side S of the square that slices are given to the network as, at first the one it was trained for.
    """

    def __init__(
        self, network: SliceModel, device: str, batch_size: int = 8, precision: str = "auto", cache_bytes: int = 2**29
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
        self.network = network
        network.eval()
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and computes_in_bfloat16(self.device))
        self.size = network.config.image_size
        self._answering = _laid_out(network, self.bfloat16)
        self._cache = _Cache(cache_bytes)

    def at(self, size: int) -> SliceNetwork:
        """The same network, asked at another resolution; what either has encoded shares one room."""
        other = copy.copy(self)
        other.size = size
        return other

    @property
    def held(self) -> int:
        """Bytes of encoded slices."""
        return self._cache.held

    @property
    def most_templates(self) -> int:
        """Template slices that answer a question together, at most."""
        return self.network.config.most_templates

    def encode(self, stack: Stack, indices: Iterable[int], *, control: Control = Control()) -> dict[int, Features]:
        """Features of some slices, from the cache where they are there; `control` follows the batches.

        Raises:
            Cancelled: the control stopped it.
        """
        keys = {index: (stack.image.checksum, stack.axis, self.size, index) for index in dict.fromkeys(indices)}
        encoded = {index: features for index, key in keys.items() if (features := self._cache.get(key)) is not None}
        missing = [index for index in keys if index not in encoded]
        for start in range(0, len(missing), self.batch_size):
            control.advance(start / len(missing))
            batch = missing[start : start + self.batch_size]
            for index, features in zip(batch, self._encoded([stack.slice(i) for i in batch]), strict=True):
                encoded[index] = features
                self._cache.put(keys[index], features)
        return encoded

    def encode_slices(self, slices: Sequence[np.ndarray]) -> list[Features]:
        """Features of grey slices (H, W) that are no part of an image's file; they are not kept."""
        batches = [slices[start : start + self.batch_size] for start in range(0, len(slices), self.batch_size)]
        return [features for batch in batches for features in self._encoded(batch)]

    def answers(self, questions: Iterable[Question], control: Control = Control()) -> Iterator[np.ndarray]:
        """Logits (S, S), float32, for each question; a batch of questions is taken when its first answer is wanted.

        Raises:
            Cancelled: the control stopped it.
        """
        remaining = iter(questions)
        while batch := list(islice(remaining, self.batch_size)):
            control.check()
            yield from self._answer_batch(batch)

    def weights(self, templates: Sequence[tuple[Features, np.ndarray]]) -> np.ndarray:
        """How much each of some template slices counts, given with its bool mask: (K,), whose sum is 1.

        Only for networks that say so (`lib.networks.contract.WeighingModel`).
        """
        template = tuple(
            torch.stack(levels)[None] for levels in zip(*(features for features, _ in templates), strict=True)
        )
        maps = self._stacked_maps([mask_maps(mask, self.size) for _, mask in templates])[None]
        with torch.inference_mode(), self._autocast():
            return cast(WeighingModel, self.network).weigh(template, maps)[0].float().cpu().numpy()

    def _encoded(self, slices: Sequence[np.ndarray]) -> list[Features]:
        images = np.stack([normalise(resize_image(grey, self.size)) for grey in slices])
        with torch.inference_mode(), self._autocast():
            levels = self._answering.encode(torch.from_numpy(images)[:, None].to(self.device))
        levels = tuple(level.contiguous(memory_format=torch.channels_last) for level in levels)
        # copies, not views that hold the batch
        return [tuple(level[place].clone() for level in levels) for place in range(len(slices))]

    def _answer_batch(self, batch: Sequence[Question]) -> Iterator[np.ndarray]:
        """Answers in order; questions to as many template slices pass the network together."""
        counts = [question.template_maps.shape[:-4] for question in batch]
        answers: dict[int, np.ndarray] = {}
        for count in dict.fromkeys(counts):
            places = [place for place, own in enumerate(counts) if own == count]
            answers |= zip(places, self._answer_alike([batch[place] for place in places]), strict=True)
        return (answers[place] for place in range(len(batch)))

    def _answer_alike(self, batch: Sequence[Question]) -> np.ndarray:
        """(B, S, S) of questions to the same number of template slices."""
        query = self._stacked([question.query for question in batch])
        template = self._stacked([question.template for question in batch])
        template_maps = self._stacked_maps([question.template_maps for question in batch])
        query_maps = None
        if any(question.query_maps is not None for question in batch):
            silence = np.zeros(batch[0].template_maps.shape[-4:], np.float32)
            query_maps = self._stacked_maps([silence if q.query_maps is None else q.query_maps for q in batch])
        with torch.inference_mode(), self._autocast():
            logits = self._answering.decode(query, template, template_maps, query_maps)
        return finite(logits[:, 0].float().cpu().numpy())

    def _stacked(self, features: Sequence[Features]) -> Features:
        if all(one is features[0] for one in features):  # a shared side need not be copied for each question
            return tuple(level[None].expand(len(features), *level.shape) for level in features[0])
        return tuple(_stacked(levels) for levels in zip(*features, strict=True))

    def _stacked_maps(self, maps: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(maps)).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def _laid_out(network: SliceModel, bfloat16: bool) -> SliceModel:
    """The network as it answers fastest, with the same answers: a copy, since training and files want it as it is.

    Convolutions are channels-last, and the weights of products are in the precision that they are computed in, to which
    they would be brought anew for every batch.
    """
    if not isinstance(network, nn.Module) or not any(isinstance(part, PRODUCTS) for part in network.modules()):
        return network
    laid_out = copy.deepcopy(network)
    for part in laid_out.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)
        if bfloat16 and isinstance(part, PRODUCTS):
            part.to(torch.bfloat16)
    return laid_out


def _stacked(levels: Sequence[Tensor]) -> Tensor:
    """Tensors (..., C, h, w) to one of (N, ..., C, h, w), channels-last as each of them is."""
    return torch.stack([level.movedim(-3, -1) for level in levels]).movedim(-1, -3)


def mask_maps(mask: np.ndarray, size: int) -> np.ndarray:
    """float32 (2, 5, S, S): a trusted 2-D mask (SegLab) as prompt maps."""
    return rasterise(Prompt(mask=np.asarray(mask, bool)), mask.shape, size)


class _Cache:
    """Encoded slices within a number of bytes; the least recently used go first. Threads may share it."""

    def __init__(self, room: int) -> None:
        self._entries: LRUCache[tuple[str, int, int, int], Features] = LRUCache(room, getsizeof=size_of)
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int, int]) -> Features | None:
        with self._lock:
            features: Features | None = self._entries.get(key)
            return features

    def put(self, key: tuple[str, int, int, int], features: Features) -> None:
        with self._lock, suppress(ValueError):  # larger than the whole room: not kept
            self._entries[key] = features

    @property
    def held(self) -> int:
        return int(self._entries.currsize)


def size_of(features: Features) -> int:
    """Bytes of a slice's features."""
    return sum(level.element_size() * level.numel() for level in features)


def computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()  # emulated bfloat16 would be slower than float32
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
