"""The one network in memory that every task uses, and the weights file it is served from.

Published weights (what the trainer wrote) are served where they descend from the configured ones. A changed file is
loaded beside the old network and swapped in whole: who asks meanwhile is answered by the old one, and requests under
way keep the network they began with. A file that does not load is reported and ignored, so a broken upload never takes
the server down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from infers.settings import ConfigError
from lib.finetuning.versions import UPLOADED, Versions
from lib.imaging.files import stamp_of
from lib.networks import OnePrompt
from lib.networks.checkpoints import CheckpointError, load_network, read_provenance, weights_hash
from lib.quality.estimator import Estimator
from lib.segmenters.slice_segmenter import SliceSegmenter

logger = logging.getLogger(__name__)

PUBLISHED = "oneprompt.safetensors"
BASE = "base"  # provenance key of published weights: the hash of the configured weights they were trained from


class ServedModel:
    """Gives the segmenter for the current weights.

    Args:
        base: weights file of the configuration (`--conf weights`, or the ones that ship).
        published: where the trainer publishes better ones; need not exist.
        device: torch device, or `auto`.

    Raises:
        CheckpointError: the base weights are missing or do not fit.
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
        self._loading = threading.Lock()
        network = load_network(base, self.device)
        self.base_hash = weights_hash(network)
        self._config = network.config
        # Weights that were trained from the configured ones are judged by what was fitted for those
        self.estimator = Estimator.valid_for(self.base_hash, base)
        self._served = (make(network, self.device, estimator=self.estimator), base)  # exchanged in one assignment
        self._seen: tuple[int, ...] | None = None

    @property
    def segmenter(self) -> SliceSegmenter:
        """The segmenter with the weights that are on disk now; while somebody else loads them, that of the old ones."""
        self._refresh(wait=False)
        return self._served[0]

    @property
    def weights_hash(self) -> str:
        """Hash of the weights that the next request will use."""
        return self.segmenter.weights_hash

    def weights_on_disk(self) -> str:
        """The same once what is on disk is loaded; waits for that, so not for a request."""
        self._refresh(wait=True)
        return self._served[0].weights_hash

    @property
    def path(self) -> Path:
        """The file of these weights."""
        _ = self.segmenter
        return self._served[1]

    def publish(self, path: Path, versions: Versions) -> None:
        """Serve uploaded weights from the next request on. Raises CheckpointError where they do not fit."""
        network = load_network(path)
        self._check(network)
        record = {**read_provenance(path), BASE: self.base_hash, "state": UPLOADED, "parent": self.weights_hash}
        versions.publish(versions.add(network, record))
        self._refresh(wait=True)

    def serve(self, name: str, versions: Versions) -> None:
        """Serve another version from the next request on: its hash, or `base` for the configured weights.

        Raises:
            VersionError: there is none of this name.
            CheckpointError: it does not fit the configured weights; nothing changes.
        """
        if name in ("base", self.base_hash):
            versions.withdraw()
            self._refresh(wait=True)
            return
        path = versions.path(name)
        self._check(load_network(path))
        if read_provenance(path).get(BASE) != self.base_hash:
            raise CheckpointError(
                f"version {name} was trained from other weights than the configured ones ({self.base_hash}): start the "
                "server with --conf weights and those to serve it"
            )
        versions.publish(name)
        self._refresh(wait=True)

    def _refresh(self, wait: bool) -> None:
        """Load what is on disk now, unless it is loaded; while another thread does, wait for it or go on."""
        stamp = stamp_of(self.published)
        if stamp != self._seen and self._loading.acquire(blocking=wait):
            try:
                if (stamp := stamp_of(self.published)) != self._seen:
                    self._load(self.published if stamp else self.base)
                    self._seen = stamp
            finally:
                self._loading.release()

    def _check(self, network: OnePrompt) -> None:
        if network.config != self._config:
            raise CheckpointError(
                f"weights must be of the configuration {self._config.name!r} that is served, got "
                f"{network.config.name!r} with other sizes: start the server with --conf weights FILE to serve those"
            )

    def _load(self, path: Path) -> None:
        if path == self._served[1] == self.base:
            return
        try:
            if path == self.published and read_provenance(path).get(BASE) != self.base_hash:
                logger.warning("%s was trained from other weights than %s and is not served", path, self.base)
                path = self.base
            network = load_network(path, self.device)
            self._served = (self._make(network, self.device, estimator=self.estimator), path)
            logger.info("serves the weights %s from %s", self._served[0].weights_hash, path)
        except (CheckpointError, OSError, ValueError) as error:
            logger.error("%s is not served, %s stays: %s", path, self._served[1], error)
