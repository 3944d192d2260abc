"""The one network in memory that every task uses, and the weights file it is served from.

Published weights (what the trainer wrote) are served where they descend from the configured ones. A changed file is
loaded beside the old network and swapped in whole: who asks meanwhile is answered by the old one, and requests under
way keep the network they began with. A file that does not load is reported and ignored, so a broken upload never takes
the server down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from infers.settings import ConfigError
from lib.cluster.segmenting import Recipe
from lib.finetuning.versions import UPLOADED, Versions
from lib.imaging.reloading import Reloading
from lib.imaging.stamps import stamp_of
from lib.networks import NetworkConfig, OnePrompt
from lib.networks.checkpoints import CheckpointError, load_network, read_provenance, weights_hash
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Segmenter
from lib.segmenters.slice_segmenter import SliceSegmenter

logger = logging.getLogger(__name__)

PUBLISHED = "oneprompt.safetensors"
BASE = "base"  # provenance key of published weights: the hash of the configured weights they were trained from


class Served(NamedTuple):
    """Weights that are loaded: their segmenter, their file, and the record of the version that they are, {} of the
    configured ones."""

    segmenter: SliceSegmenter
    path: Path
    record: dict[str, Any]


class ServedModel:
    """Gives the segmenter for the current weights.

    Nothing is loaded before it is needed: a training only asks which file is served.

    Args:
        base: weights file of the configuration (`--conf weights`, or the ones that ship).
        published: where the trainer publishes better ones; need not exist.
        device: torch device, or `auto`.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """

    def __init__(
        self,
        base: Path,
        published: Path,
        device: str = "auto",
        make: Callable[..., SliceSegmenter] = SliceSegmenter,
    ) -> None:
        self.base, self.published = base, published
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"--conf device {device} needs a GPU that PyTorch can use, and it finds none: say cpu or auto"
            )
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._make = make
        self._base: tuple[str, NetworkConfig] | None = None
        self._served = Reloading[Served](published, self._load_base, self._load)
        self._hash: tuple[tuple[int, ...] | None, str] | None = None  # stamp of the published file, hash then

    def load(self) -> None:
        """Load what is served, and see that it fits. Raises CheckpointError where the base weights do not."""
        self._served.current(wait=True)

    @property
    def base_hash(self) -> str:
        """Hash of the configured weights. Raises CheckpointError where they are missing or broken."""
        return self._of_base()[0]

    @cached_property
    def estimator(self) -> Estimator | None:
        """What predicts quality: weights that were trained from the configured ones are judged by what was fitted for
        those."""
        return Estimator.valid_for(self.base_hash, self.base)

    @property
    def served(self) -> Served:
        """What is on disk now; while somebody else loads it, what was there before."""
        return self._served.current(wait=False)

    @property
    def segmenter(self) -> SliceSegmenter:
        """The segmenter with these weights."""
        return self.served.segmenter

    @property
    def weights_hash(self) -> str:
        """Hash of the weights that the next request will use."""
        if self._served.loaded is not None:
            return self.segmenter.weights_hash
        stamp = stamp_of(self.published)
        if self._hash is None or self._hash[0] != stamp:
            self._hash = (stamp, weights_hash(load_network(self.path)))
        return self._hash[1]

    def weights_on_disk(self) -> str:
        """The same once what is on disk is loaded; waits for that, so not for a request."""
        return self._served.current(wait=True).segmenter.weights_hash

    @property
    def path(self) -> Path:
        """The file of these weights."""
        if self._served.loaded is not None:
            return self.served.path
        return self.published if self.published.exists() and self._descends(self.published) else self.base

    @property
    def record(self) -> dict[str, Any]:
        """What is recorded of these weights; {} of the configured ones."""
        if self._served.loaded is not None:
            return self.served.record
        path = self.path
        return {} if path == self.base else read_provenance(path)

    def recipe(self, segmenter: Segmenter) -> Recipe | None:
        """What makes a model in another process; None for those that learnt from the list's own labels."""
        if not isinstance(segmenter, SliceSegmenter) or segmenter is not self.segmenter:
            return None
        return Recipe(self.path.read_bytes(), self.estimator, segmenter.settings, segmenter.fingerprint)

    def publish(self, path: Path, versions: Versions) -> None:
        """Serve uploaded weights from the next request on. Raises CheckpointError where they do not fit."""
        network = load_network(path)
        self._check(network)
        # What the file says of itself is kept, and read by nobody as this server's own record
        record = {UPLOADED: read_provenance(path), "state": UPLOADED, BASE: self.base_hash, "parent": self.weights_hash}
        versions.publish(versions.add(network, record))
        self._served.current(wait=True)

    def serve(self, name: str, versions: Versions) -> None:
        """Serve another version from the next request on: its hash, or `base` for the configured weights.

        Raises:
            VersionError: there is none of this name.
            CheckpointError: it does not fit the configured weights; nothing changes.
        """
        if name in ("base", self.base_hash):
            versions.withdraw()
            self._served.current(wait=True)
            return
        path = versions.path(name)
        self._check(load_network(path))
        if read_provenance(path).get(BASE) != self.base_hash:
            raise CheckpointError(
                f"version {name} was trained from other weights than the configured ones ({self.base_hash}): start the "
                "server with --conf weights and those to serve it"
            )
        versions.publish(name)
        self._served.current(wait=True)

    def _of_base(self) -> tuple[str, NetworkConfig]:
        """Hash and configuration of the configured weights."""
        if self._base is None:
            network = load_network(self.base)
            self._base = (weights_hash(network), network.config)
        return self._base

    def _descends(self, path: Path) -> bool:
        """Whether weights were trained from the configured ones, as far as their file says."""
        try:
            return bool(read_provenance(path).get(BASE) == self.base_hash)
        except (CheckpointError, OSError, ValueError):
            return False

    def _check(self, network: OnePrompt) -> None:
        config = self._of_base()[1]
        if network.config != config:
            raise CheckpointError(
                f"weights must be of the configuration {config.name!r} that is served, got "
                f"{network.config.name!r} with other sizes: start the server with --conf weights FILE to serve those"
            )

    def _load_base(self) -> Served:
        network = load_network(self.base, self.device)
        self._base = (weights_hash(network), network.config)
        return Served(self._make(network, self.device, estimator=self.estimator), self.base, {})

    def _load(self, exists: bool, served: Served) -> Served:
        """What is served next, after the published weights came, changed or went."""
        path = self.published if exists else self.base
        try:
            record = read_provenance(path) if exists else {}
            if exists and record.get(BASE) != self.base_hash:
                logger.warning("%s was trained from other weights than %s and is not served", path, self.base)
                path, record = self.base, {}
            if path == served.path == self.base:
                return served
            network = load_network(path, self.device)
            served = Served(self._make(network, self.device, estimator=self.estimator), path, record)
            logger.info("serves the weights %s from %s", served.segmenter.weights_hash, path)
        except (CheckpointError, OSError, ValueError) as error:
            logger.error("%s is not served, %s stays: %s", path, served.path, error)
        return served
