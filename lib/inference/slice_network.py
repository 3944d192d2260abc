"""The network asked about slices of volumes: batches, precision, and the cache of what it has encoded.

Encoding is dear and depends on the slice alone, so an encoded slice is kept and found again by the image's checksum,
the stack's axis and the slice's index: the second click on an image and the hundredth query of a template encode
nothing. A cache belongs to one network; other weights have another `SliceNetwork`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import normalise, resize_image
from lib.imaging.volumes import Stack
from lib.networks import Features, OnePrompt

Checkpoint = Callable[[float], None]


@dataclass(frozen=True)
class Question:
    """One structure on one slice.

    Attributes:
        query: features of the slice to segment, each level (C, h, w).
        template: features of the template slice; the same object in the interactive mode.
        template_maps: float32 (2, 5, S, S) prompt maps on the template slice.
        query_maps: the same on the query slice, None for no prompt.
    """

    query: Features
    template: Features
    template_maps: np.ndarray
    query_maps: np.ndarray | None = None


class SliceNetwork:
    """A network with its batches and its cache; safe to share between threads.

    Args:
        network: in evaluation mode, on `device`.
        batch_size: slices or questions that pass the network at once.
        precision: float32, bfloat16, or auto for bfloat16 where the hardware computes in it.
        cache_bytes: room for encoded slices; the least recently used go first.
    """

    def __init__(
        self, network: OnePrompt, device: str, batch_size: int = 8, precision: str = "auto", cache_bytes: int = 2**29
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
        self.network = network.eval()
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and computes_in_bfloat16(self.device))
        self._cache = _Cache(cache_bytes)

    @property
    def size(self) -> int:
        """Side S of the network's square input."""
        return self.network.config.image_size

    def encode(
        self, stack: Stack, indices: Iterable[int], *, keep: bool = True, checkpoint: Checkpoint | None = None
    ) -> dict[int, Features]:
        """Features of some slices, from the cache where they are there.

        Args:
            keep: put what is encoded into the cache.
            checkpoint: called with the fraction done before each batch.
        """
        keys = {index: (stack.image.checksum, stack.axis, index) for index in dict.fromkeys(indices)}
        found = {index: features for index, key in keys.items() if (features := self._cache.get(key)) is not None}
        missing = [index for index in keys if index not in found]
        for start in range(0, len(missing), self.batch_size):
            if checkpoint:
                checkpoint(start / len(missing))
            batch = missing[start : start + self.batch_size]
            slices = np.stack([normalise(resize_image(stack.slice(index), self.size)) for index in batch])
            with torch.inference_mode(), self._autocast():
                levels = self.network.encode(torch.from_numpy(slices)[:, None].to(self.device))
            for place, index in enumerate(batch):
                found[index] = tuple(level[place].clone() for level in levels)  # not a view that holds the batch
                if keep:
                    self._cache.put(keys[index], found[index])
        return found

    def answers(self, questions: Iterable[Question]) -> Iterator[np.ndarray]:
        """Logits (S, S), float32, for each question; a batch of questions is taken when its first answer is wanted."""
        remaining = iter(questions)
        while batch := list(islice(remaining, self.batch_size)):
            yield from self._answer_batch(batch)

    def _answer_batch(self, batch: Sequence[Question]) -> np.ndarray:
        query = self._stacked([question.query for question in batch])
        template = self._stacked([question.template for question in batch])
        template_maps = self._stacked_maps([question.template_maps for question in batch])
        query_maps = None
        if any(question.query_maps is not None for question in batch):
            silence = np.zeros_like(batch[0].template_maps)
            query_maps = self._stacked_maps([silence if q.query_maps is None else q.query_maps for q in batch])
        with torch.inference_mode(), self._autocast():
            logits = self.network.decode(query, template, template_maps, query_maps)
        answers: np.ndarray = logits[:, 0].float().cpu().numpy()
        return answers

    def _stacked(self, features: Sequence[Features]) -> Features:
        if all(one is features[0] for one in features):  # a shared side need not be copied for each question
            return tuple(level[None].expand(len(features), -1, -1, -1) for level in features[0])
        return tuple(torch.stack(levels) for levels in zip(*features, strict=True))

    def _stacked_maps(self, maps: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(maps)).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def mask_maps(mask: np.ndarray, size: int) -> np.ndarray:
    """float32 (2, 5, S, S): a trusted 2-D mask (SegLab) as prompt maps."""
    return rasterise(Prompt(mask=np.asarray(mask, bool)), mask.shape, size)


class _Cache:
    """Encoded slices, least recently used first, within a number of bytes."""

    def __init__(self, room: int) -> None:
        self._room, self._used = room, 0
        self._entries: OrderedDict[tuple[str, int, int], Features] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int]) -> Features | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: tuple[str, int, int], features: Features) -> None:
        with self._lock:
            if key not in self._entries:
                self._entries[key] = features
                self._used += _size(features)
            while self._used > self._room:
                _, dropped = self._entries.popitem(last=False)
                self._used -= _size(dropped)


def _size(features: Features) -> int:
    return sum(level.element_size() * level.numel() for level in features)


def computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()  # emulated bfloat16 would be slower than float32
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
