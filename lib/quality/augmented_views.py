"""Augmented views of templates: warped, as other patients might look; what the network can do with a structure at best.

A template's own structure is easier to find in its views than in new studies, so how well that goes is no quality of
theirs, but says what to expect. And a view is a second template: where the two lead to different masks, neither is
sure. A view is made and encoded once for each template slice.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cachetools import LRUCache

from lib.imaging.metrics import pooled_dice
from lib.imaging.transforms import resize_image, resize_mask
from lib.imaging.volumes import Stack
from lib.inference.feature_cache import size_of
from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.learning.augmentation import copy_of, moved
from lib.networks.contract import Features
from lib.quality.reverse_dice import spread

SLICES = 3  # of a volume's template, on which it is measured what it finds in views
VIEWS = 3  # of a flat template
ROOM = 2**28  # bytes of views
DICES = 256


@dataclass(frozen=True, eq=False)
class AugmentedView:
    """One warped slice: its features, and where its pixels come from (see `lib.learning.augmentation.copy_of`)."""

    features: Features
    grid: torch.Tensor

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Bool (S, S): a bool mask (H, W) of the slice as it lies in the view."""
        return moved(resize_mask(mask, len(self.grid)), self.grid)


class AugmentedViews:
    """Makes views and remembers them; safe to share between threads."""

    def __init__(self, network: SliceNetwork) -> None:
        self._network = network
        self._made: LRUCache[tuple[str, int, int, int], AugmentedView] = LRUCache(ROOM, getsizeof=_size)
        self._dices: LRUCache[tuple[str, int, str], float] = LRUCache(DICES)
        self._lock = threading.Lock()

    def take(self, stack: Stack, wanted: Sequence[tuple[int, int]]) -> list[AugmentedView]:
        """Augmented views of slices, each given by slice and number; the same ones whenever they are asked for."""
        keys = [(stack.image.checksum, stack.axis, *one) for one in wanted]
        with self._lock:
            views = {key: self._made[key] for key in keys if key in self._made}
        missing = [key for key in dict.fromkeys(keys) if key not in views]
        if missing:
            pairs = [self._warp(stack, *key[2:]) for key in missing]
            features = self._network.encode_slices([grey for grey, _ in pairs])
            views |= {
                key: AugmentedView(own, grid) for key, own, (_, grid) in zip(missing, features, pairs, strict=True)
            }
            with self._lock:
                self._made.update({key: views[key] for key in missing})
        return [views[key] for key in keys]

    def dice(self, stack: Stack, masks: np.ndarray) -> float:
        """Dice, 0 to 1, of the structure shown by bool masks (T, H, W), found by a template in views of itself."""
        key = (stack.image.checksum, stack.axis, hashlib.sha256(np.packbits(masks).tobytes()).hexdigest())
        with self._lock:
            if key in self._dices:
                return self._dices[key]
        areas = masks.sum(axis=(1, 2))
        slices = spread(np.flatnonzero(areas >= max(1.0, 0.5 * areas.max(initial=0))).tolist(), SLICES)
        wanted = [(index, number) for index in slices for number in range(-(-VIEWS // len(slices)))]
        features, views = self._network.encode(stack, slices), self.take(stack, wanted)
        questions = [
            Question(view.features, features[index], mask_maps(masks[index], self._network.size))
            for (index, _), view in zip(wanted, views, strict=True)
        ]
        truths = [view.mask(masks[index]) for (index, _), view in zip(wanted, views, strict=True)]
        score = pooled_dice(truths, [logits > 0 for logits in self._network.answers(questions)])
        with self._lock:
            self._dices[key] = score
        return score

    def _warp(self, stack: Stack, index: int, number: int) -> tuple[np.ndarray, torch.Tensor]:
        size = self._network.size
        return copy_of(resize_image(stack.slice(index), size), np.random.default_rng([index, number]), size)


def _size(view: AugmentedView) -> int:
    return min(size_of(view), ROOM)
