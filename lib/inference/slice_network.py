"""The network on slices of volumes: batches, precision, and what is kept of what it has computed.

Encoding takes most of the time and depends on the slice alone, so an encoded slice is kept and found again by the
image's checksum, the stack's axis, the resolution and the slice's index: the second click on an image and the hundredth
query of a template encode nothing, and neither does a second network with the same image encoder. A network that reads
several templates at once remembers them (`RememberingModel`), and that is kept too: the hundredth slice that is
compared with the same template slices reads what the first one had computed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import normalise, resize_image
from lib.imaging.volumes import Stack
from lib.inference.control import Control
from lib.inference.feature_cache import FeatureCache
from lib.networks.answers import finite
from lib.networks.checkpoints import encoder_hash, weights_hash
from lib.networks.contract import Features, RememberingModel, SliceModel, TaskMemory

PRODUCTS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Question:
    """One structure on one slice.

    Attributes:
        query: features of the slice to segment, each level (C, h, w).
        template: features of the template slice; the same object in the interactive mode. Of K template slices that
            answer together, each level (K, C, h, w).
        template_maps: float32 (2, 5, S, S) prompt maps on the template slice, or (K, 2, 5, S, S).
        query_maps: float32 (2, 5, S, S) on the query slice, None for no prompt.
    """

    query: Features
    template: Features
    template_maps: np.ndarray
    query_maps: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TemplateSlice:
    """A structure as a slice of a template shows it.

    Attributes:
        stack: the template's slices.
        index: which of them.
        features: of that slice, each level (C, h, w).
        mask: bool (H, W).
        prompt: 2-D, what shows it in place of a mask that can be trusted, with the answer to it as previous mask.
    """

    stack: Stack
    index: int
    features: Features
    mask: np.ndarray
    prompt: Prompt | None = None

    def maps(self, size: int) -> np.ndarray:
        """float32 (2, 5, S, S) prompt maps."""
        return mask_maps(self.mask, size) if self.prompt is None else rasterise(self.prompt, self.mask.shape, size)

    @cached_property
    def key(self) -> tuple[str, int, int, str]:
        """Equal for the same mask, or prompt, on the same slice."""
        shown = hashlib.sha256(np.packbits(self.mask).tobytes())
        if self.prompt is not None:
            shown.update(self.maps(max(self.mask.shape)).tobytes())
        return self.stack.image.checksum, self.stack.axis, self.index, shown.hexdigest()


@dataclass(frozen=True, eq=False)
class TaskQuestion:
    """One structure on one slice, asked of template slices that answer together.

    Attributes:
        query: features of the slice to segment, each level (C, h, w).
        shown: one or more, at most as many as the network reads in one pass.
    """

    query: Features
    shown: Sequence[TemplateSlice]

    def at_once(self, size: int) -> Question:
        """With the features and maps of the template slices, which are copied for it."""
        maps = [one.maps(size) for one in self.shown]
        if len(maps) == 1:
            return Question(self.query, self.shown[0].features, maps[0])
        levels = zip(*(one.features for one in self.shown), strict=True)
        return Question(self.query, tuple(_stacked(each) for each in levels), np.stack(maps))


class SliceNetwork:
    """A network with its batches and its cache; safe to share between threads.

    Args:
        network: in evaluation mode, on `device`.
        batch_size: slices or questions that pass the network at once.
        precision: float32, bfloat16, or auto for bfloat16 where the hardware computes in it.
        cache_bytes: room for what is kept, without a cache of others.
        cache: keeps what this network computes beside what others do.

    Attributes:
        size: side S of the square that slices are given to the network as, at first the one it was trained for.
    """

    def __init__(
        self,
        network: SliceModel,
        device: str,
        batch_size: int = 8,
        precision: str = "auto",
        cache_bytes: int = 2**29,
        cache: FeatureCache | None = None,
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
        self._cache = cache or FeatureCache(cache_bytes)
        computed = (str(self.device), self.bfloat16)
        self._encoder = (encoder_hash(network), *computed)
        self._remembering = self._answering if isinstance(self._answering, RememberingModel) else None
        self._memories = (weights_hash(network), *computed) if self._remembering else ()

    def at(self, size: int) -> SliceNetwork:
        """The same network, asked at another resolution; what either has encoded shares one room."""
        other = copy.copy(self)
        other.size = size
        return other

    @property
    def held(self) -> int:
        """Bytes that are kept, of all networks with the same cache."""
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
        place = (*self._encoder, stack.image.checksum, stack.axis, self.size)
        keys: dict[int, Hashable] = {index: (*place, index) for index in dict.fromkeys(indices)}
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

    def answers(
        self, questions: Iterable[Question | TaskQuestion], control: Control = Control()
    ) -> Iterator[np.ndarray]:
        """Logits (S, S), float32, for each question; a batch of questions is taken when its first answer is wanted.

        Raises:
            Cancelled: the control stopped it.
        """
        remaining = iter(questions)
        while batch := list(islice(remaining, self.batch_size)):
            control.check()
            yield from self._answer_batch(batch)

    def weights(self, shown: Sequence[TemplateSlice]) -> np.ndarray:
        """How much each of some template slices counts among them: (K,), whose sum is 1.

        Only for networks that remember (`lib.networks.contract.RememberingModel`).
        """
        order = _by_key(shown)
        with torch.inference_mode(), self._autocast():
            weights = self._remembered([shown[place] for place in order]).weights[0].float().cpu().numpy()
        return np.asarray(weights[np.argsort(order)])

    def _encoded(self, slices: Sequence[np.ndarray]) -> list[Features]:
        images = np.stack([normalise(resize_image(grey, self.size)) for grey in slices])
        with torch.inference_mode(), self._autocast():
            levels = self._answering.encode(torch.from_numpy(images)[:, None].to(self.device))
        levels = tuple(level.contiguous(memory_format=torch.channels_last) for level in levels)
        # copies, not views that hold the batch
        return [tuple(level[place].clone() for level in levels) for place in range(len(slices))]

    def _answer_batch(self, batch: Sequence[Question | TaskQuestion]) -> Iterator[np.ndarray]:
        """Answers in order; questions to as many template slices, or to the same ones, pass the network together."""
        answers: dict[int, np.ndarray] = {}
        at_once: dict[tuple[int, ...], dict[int, Question]] = {}
        of_tasks: dict[Hashable, dict[int, TaskQuestion]] = {}
        for place, question in enumerate(batch):
            if isinstance(question, TaskQuestion) and self._remembering:
                key = tuple(sorted(one.key for one in question.shown))
                of_tasks.setdefault(key, {})[place] = question
            else:
                own = question.at_once(self.size) if isinstance(question, TaskQuestion) else question
                at_once.setdefault(own.template_maps.shape[:-4], {})[place] = own
        for alike in at_once.values():
            answers |= zip(alike, self._answer_alike(list(alike.values())), strict=True)
        for same in of_tasks.values():
            answers |= zip(same, self._answer_task(list(same.values())), strict=True)
        return (answers[place] for place in range(len(batch)))

    def _answer_task(self, batch: Sequence[TaskQuestion]) -> np.ndarray:
        """(B, S, S) of questions to the same template slices."""
        assert self._remembering
        shown = batch[0].shown
        query = self._stacked([question.query for question in batch])
        with torch.inference_mode(), self._autocast():
            logits = self._remembering.read(query, self._remembered([shown[place] for place in _by_key(shown)]))
        return finite(logits[:, 0].float().cpu().numpy())

    def _remembered(self, shown: Sequence[TemplateSlice]) -> TaskMemory:
        """What is kept of template slices, in the order of their keys; computed where nothing is."""
        assert self._remembering
        key = (*self._memories, self.size, *(one.key for one in shown))
        memory: TaskMemory | None = self._cache.get(key)
        if memory is None:
            maps = self._stacked_maps([one.maps(self.size) for one in shown])[None]
            levels = zip(*(one.features for one in shown), strict=True)
            memory = self._remembering.remember(tuple(_stacked(each)[None] for each in levels), maps)
            self._cache.put(key, memory)
        return memory

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


def _by_key(shown: Sequence[TemplateSlice]) -> list[int]:
    """Places in the order of the keys: templates are preferred in another order for every query."""
    return sorted(range(len(shown)), key=lambda place: shown[place].key)


def computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()  # emulated bfloat16 would be slower than float32
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
