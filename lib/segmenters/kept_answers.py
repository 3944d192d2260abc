"""Interactive answers that are kept: the same clicks again have theirs, and more clicks go on from it.

Clients such as OHIF send every click each time and no mask, so that each click would pass through the whole volume
anew. A request that says what an earlier one said, and more, is taken as a correction of that one's answer: the answer
after several clicks is the one that a client gets who sends each click with the mask before. Fewer clicks (an undo)
find their own answer again.

The key says all that an answer depends on: the image, how it is cut, and every prompt on it; the weights and settings
are those of the segmenter that keeps it. So it does not matter who asks.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from cachetools import LRUCache

from lib.imaging.image import add_voxels
from lib.imaging.label_maps import Box
from lib.imaging.prompts import Prompt
from lib.inference.interaction import Answer
from lib.segmenters.contract import Prediction

Point = tuple[int, ...]


@dataclass(frozen=True)
class Remarks:
    """What was said of one structure, as part of a key.

    Attributes:
        foreground, background: clicks.
        others: digest of box, strokes and masks; empty where there are none.
        corrects: it came with the mask that it corrects.
    """

    foreground: frozenset[Point]
    background: frozenset[Point]
    others: str
    corrects: bool

    @classmethod
    def of(cls, prompt: Prompt) -> Remarks:
        """The remarks that a prompt makes."""
        arrays = (prompt.doodle, prompt.background_doodle, prompt.mask, prompt.previous, prompt.confirmed)
        others = ""
        if prompt.box is not None or any(array is not None for array in arrays):
            digest = hashlib.sha256(repr(prompt.box).encode())
            for array in arrays:
                digest.update(b"-" if array is None else array.dtype.str.encode())
                if array is not None:
                    add_voxels(digest, array)
            others = digest.hexdigest()
        return cls(frozenset(prompt.foreground), frozenset(prompt.background), others, prompt.previous is not None)

    def extend(self, before: Remarks) -> bool:
        """Whether they say what earlier ones said, or that and more clicks."""
        return (
            not self.corrects
            and self.others == before.others
            and self.foreground >= before.foreground
            and self.background >= before.background
        )

    @property
    def clicks(self) -> int:
        """How many there are."""
        return len(self.foreground) + len(self.background)


@dataclass(frozen=True)
class Inquiry:
    """The key of an answer.

    Attributes:
        image: checksum.
        axis, only_slice: how the image was cut, and whether only the prompted slices were answered.
        remarks: (structure, what was said of it), sorted.
    """

    image: str
    axis: int
    only_slice: bool
    remarks: tuple[tuple[str, Remarks], ...]

    @classmethod
    def of(cls, image: str, axis: int, only_slice: bool, prompts: Mapping[str, Prompt]) -> Inquiry:
        """The key of what these prompts, on the image's own grid, ask of it."""
        return cls(image, axis, only_slice, tuple((name, Remarks.of(prompts[name])) for name in sorted(prompts)))

    def extends(self, before: Inquiry) -> bool:
        """Whether this is the other one with more clicks, so that its answer can be gone on from.

        A prompted slice is answered from its clicks alone, at once: that is never gone on from.
        """
        if self.only_slice or (self.image, self.axis, False) != (before.image, before.axis, before.only_slice):
            return False
        names = [name for name, _ in self.remarks] == [name for name, _ in before.remarks]
        pairs = zip(self.remarks, before.remarks, strict=False)
        return names and all(own.extend(former) for (_, own), (_, former) in pairs)

    @property
    def clicks(self) -> int:
        """How many there are, on all structures."""
        return sum(remarks.clicks for _, remarks in self.remarks)


@dataclass(frozen=True, eq=False)
class KeptAnswer:
    """Masks of some structures on one image, packed.

    Attributes:
        shape: the image's.
        order: the image's in memory.
        masks: structure to the box of its voxels and their bits in it; an empty one has none.
        quality: structure to how well its mask agrees with itself, 0 to 1.
        flat: of flat images, structure to what was answered, for a template that is shown by its prompt.
    """

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    masks: Mapping[str, tuple[Box, np.ndarray]]
    quality: Mapping[str, float]
    flat: Mapping[str, Answer] = field(default_factory=dict)

    @classmethod
    def of(cls, prediction: Prediction, flat: Mapping[str, Answer]) -> KeptAnswer:
        """An answer, packed."""
        label, boxes = prediction.mask, prediction.boxes
        masks = {name: (box, np.packbits(label[box] == prediction.labels[name])) for name, box in boxes.items()}
        order: Literal["C", "F"] = "F" if label.flags.f_contiguous else "C"
        return cls(label.shape, order, masks, dict(prediction.quality), flat)

    def mask(self, name: str) -> np.ndarray:
        """Bool, of the image's shape: one structure."""
        mask = np.zeros(self.shape, bool, order=self.order)
        if name in self.masks:
            box, _ = self.masks[name]
            mask[box] = self._inside(name)
        return mask

    def label(self, labels: Mapping[str, int], kind: np.dtype) -> np.ndarray:
        """Label map of this type with these indices."""
        label = np.zeros(self.shape, kind, order=self.order)
        for name, (box, _) in self.masks.items():
            label[box][self._inside(name)] = labels[name]
        return label

    def _inside(self, name: str) -> np.ndarray:
        box, bits = self.masks[name]
        shape = tuple(side.stop - side.start for side in box)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).view(bool)

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = [bits for _, bits in self.masks.values()]
        arrays += [array for one in self.flat.values() for array in (*one.logits.values(), *one.trusted.values())]
        return sum(array.nbytes for array in arrays) + 1024


class KeptAnswers:
    """The answers of one segmenter within a number of bytes; the least recently used go first. Threads may share it."""

    def __init__(self, room: int) -> None:
        self._answers: LRUCache[Inquiry, KeptAnswer] = LRUCache(room, getsizeof=lambda answer: answer.size)
        self._lock = threading.Lock()

    def get(self, inquiry: Inquiry) -> KeptAnswer | None:
        """The answer to just this."""
        with self._lock:
            answer: KeptAnswer | None = self._answers.get(inquiry)
            return answer

    def before(self, inquiry: Inquiry) -> KeptAnswer | None:
        """The answer to most of this, to go on from: it has something of every structure."""
        with self._lock:
            former = sorted((one for one in self._answers if inquiry.extends(one)), key=lambda one: -one.clicks)
            answers = (self._answers[one] for one in former)
            return next((answer for answer in answers if len(answer.masks) == len(inquiry.remarks)), None)

    def put(self, inquiry: Inquiry, answer: KeptAnswer) -> None:
        """Keep an answer, if there is room for it at all."""
        with self._lock, suppress(ValueError):
            self._answers[inquiry] = answer

    @property
    def held(self) -> int:
        """Bytes."""
        return int(self._answers.currsize)
