"""Studies segmented by actors: what is sent to them, and what segments there.

Weights and templates are sent once and known by the hash of their content; what the actor makes of them must have that
hash, or it refuses the study.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache

from lib.cluster.connection import load_ray
from lib.imaging.image import Image
from lib.inference.templates import Template
from lib.networks.checkpoints import load_network
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Prediction
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter

TEMPLATES = 16  # kept by an actor, the least recently used go first


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that makes a segmenter; picklable.

    Attributes:
        weights: content of the weights file.
        estimator: of the quality; None where none was fitted for these weights.
        settings: of the segmenter.
        fingerprint: what the segmenter's must be.
        device: of PyTorch; auto for a GPU where the actor has one.
        threads: of PyTorch in the actor.
    """

    weights: bytes
    estimator: Estimator | None
    settings: SegmenterSettings
    fingerprint: str
    device: str = "auto"
    threads: int = 1

    def segmenter(self, watch: Callable[[Any, str], None] = lambda network, device: None) -> SliceSegmenter:
        """The segmenter, on its device; `watch` is called with the network and the device's name first.

        Raises:
            ValueError: it is another one than the recipe's.
        """
        torch.set_num_threads(self.threads)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        with tempfile.TemporaryDirectory(prefix="oneprompt-weights-") as folder:
            path = Path(folder) / "weights.safetensors"
            path.write_bytes(self.weights)
            network = load_network(path, device)
        watch(network, device)
        segmenter = SliceSegmenter(network, device, self.settings, self.estimator)
        if segmenter.fingerprint != self.fingerprint:
            raise ValueError(
                f"its weights and settings are {segmenter.fingerprint} and must be {self.fingerprint}: install the "
                "same checkout, or the same container image"
            )
        return segmenter


@dataclass(frozen=True, eq=False)
class StudyJob:
    """A study to segment; picklable.

    Attributes:
        number: of the job, to know it by.
        image: the study's.
        templates: checksum of each and a reference to it in the cluster, in order of preference.
        labels: structures wanted, name to index.
        recipe: fingerprint of the segmenter, and a reference to its `Recipe`.
    """

    number: int
    image: Image
    templates: Sequence[tuple[str, Any]]
    labels: Mapping[str, int]
    recipe: tuple[str, Any]


class SegmentingWorker:
    """Works on `StudyJob`s in an actor; keeps the segmenter, with what it encoded, and templates."""

    def __init__(self) -> None:
        self._segmenter: SliceSegmenter | None = None
        self._templates: LRUCache[str, Template] = LRUCache(TEMPLATES)

    def __call__(self, job: StudyJob) -> Prediction | Exception:
        """The study's mask, or the error that is to be raised where it is waited for."""
        try:
            fingerprint, recipe = job.recipe
            if self._segmenter is None or self._segmenter.fingerprint != fingerprint:
                self._segmenter = load_ray().get(recipe).segmenter()
            return self._segmenter.segment(job.image, [self._template(*one) for one in job.templates], job.labels)
        except Exception as error:  # whatever one study brings must not stop the others
            return error

    def _template(self, checksum: str, reference: Any) -> Template:
        template: Template | None = self._templates.get(checksum)
        if template is None:
            template = self._templates[checksum] = load_ray().get(reference)
        return template
