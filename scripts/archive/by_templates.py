"""The method of a real run: One-Prompt by a bank of templates, both sent to the workers as bytes."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from lib.cluster.segmenting import Recipe
from lib.imaging.image import Image
from lib.inference.control import Control
from lib.inference.templates import Summary, Template, TemplateBank, study_descriptor
from lib.quality.estimator import Estimator
from lib.segmenters.fingerprints import digest
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.archive.work import Answer, Clock, Labelled

LAST_STAGE = 0.95  # the fraction at which a segmenter begins with the quality


@dataclass(frozen=True)
class ByTemplates:
    """Makes the method in a worker; picklable.

    Attributes:
        recipe: of the segmenter.
        bank: pickled templates.
        labels: {structure: value in masks}.
        most: templates of each structure, at most.
        fingerprint: of all of this.
    """

    recipe: Recipe
    bank: bytes
    labels: Mapping[str, int]
    most: int
    fingerprint: str

    @classmethod
    def of(
        cls,
        weights: Path,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        most: int = 4,
        device: str = "auto",
        threads: int = 1,
    ) -> ByTemplates:
        """From a weights file and templates; `device` and `threads` are the workers'. Raises CheckpointError."""
        settings = SegmenterSettings(templates_per_query=most)
        segmenter = SliceSegmenter.load(weights, "cpu", settings)
        estimator = Estimator.valid_for(segmenter.weights_hash, weights)
        recipe = Recipe(weights.read_bytes(), estimator, settings, segmenter.fingerprint, device, threads)
        fingerprint = _fingerprint(segmenter.fingerprint, templates, labels, most)
        return cls(recipe, pickle.dumps(list(templates)), dict(labels), most, fingerprint)

    def __call__(self) -> TemplateMethod:
        """The method, its network on the device."""
        clock = _NetworkClock()
        segmenter = self.recipe.segmenter(clock.watch)
        return TemplateMethod(segmenter, pickle.loads(self.bank), self.labels, self.most, clock)


class TemplateMethod:
    """Segments images by the templates that are most like them.

    Args:
        segmenter: the network, which keeps what it encoded of the templates.
        templates: the bank.
        labels: {structure: value in masks}.
        most: templates of each structure, at most.
        clock: times the segmenter's network.
    """

    def __init__(
        self,
        segmenter: SliceSegmenter,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        most: int,
        clock: _NetworkClock,
    ) -> None:
        self._segmenter, self._labels, self._most, self._clock = segmenter, labels, most, clock
        self._templates = {template.id: template for template in templates}
        self._images = {template.image.checksum for template in templates}
        self._bank = TemplateBank(self._templates.__getitem__, self._summary)
        self._bank.refresh({template.id: template.checksum for template in templates})
        self.fingerprint = _fingerprint(segmenter.fingerprint, templates, labels, most)

    def segment(self, study: str, image: Image, clock: Clock) -> Answer:
        """See `scripts.archive.work.Method`. Raises TemplateError, ImageError, Labelled."""
        if image.checksum in self._images:
            raise Labelled(study)
        begin = time.perf_counter()
        descriptor = study_descriptor(image)
        chosen = {name: self._bank.choose(descriptor, name, self._most) for name in self._labels}
        templates = [self._templates[id] for id in dict.fromkeys(id for ids in chosen.values() for id in ids)]
        control = _QualityClock(self._clock)
        self._clock.reset()
        prediction = self._segmenter.segment(image, templates, self._labels, control=control)
        end = time.perf_counter()
        quality = end - control.began - (self._clock.total - control.network) if control.began else 0.0
        clock.add("encode", self._clock.seconds["encode"])
        clock.add("decode", self._clock.seconds["decode"])
        clock.add("quality", quality)
        clock.add("assemble", end - begin - self._clock.total - quality)
        return Answer(prediction.mask, prediction.labels, prediction.provenance)

    def _summary(self, id: str) -> Summary:
        template = self._templates[id]
        return Summary(template.structures, study_descriptor(template.image))


class _NetworkClock:
    """Seconds in a network's two halves."""

    def __init__(self) -> None:
        self._cuda = False
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.seconds = {"encode": 0.0, "decode": 0.0}

    @property
    def total(self) -> float:
        """Of both."""
        return sum(self.seconds.values())

    def watch(self, network: Any, device: str) -> None:
        """Time this network, which is on that device, from now on."""
        self._cuda = device.startswith("cuda")
        for name in self.seconds:
            setattr(network, name, self._timed(name, getattr(network, name)))

    def _timed(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(act)
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            answer = act(*arguments, **options)
            if self._cuda:
                torch.cuda.synchronize()  # else a GPU's seconds are counted where somebody waits for them
            self.seconds[name] += time.perf_counter() - begin
            return answer

        return timed


class _QualityClock(Control):
    """Notes when a segmenter begins with the quality, and how long its network took until then."""

    def __init__(self, clock: _NetworkClock) -> None:
        self._clock = clock
        self.began, self.network = 0.0, 0.0

    def report(self, fraction: float) -> None:
        if fraction >= LAST_STAGE and not self.began:
            self.began, self.network = time.perf_counter(), self._clock.total


def _fingerprint(segmenter: str, templates: Sequence[Template], labels: Mapping[str, int], most: int) -> str:
    return digest([segmenter, dict(labels), {template.id: template.checksum for template in templates}, most])
