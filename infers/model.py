"""The one network in memory that every task uses, and the weights file it is served from.

Published weights (what the trainer wrote) are served where they descend from the configured ones. A changed file is
loaded at the next request and swapped in whole; requests under way keep the network they began with. A file that does
not load is reported and ignored, so a broken upload never takes the server down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from lib.checkpoints import CheckpointError, load_network, read_provenance, save_network, weights_hash
from lib.config import ConfigError
from lib.networks import OnePrompt
from lib.predictor import Predictor

logger = logging.getLogger(__name__)

PUBLISHED = "oneprompt.safetensors"
BASE = "base"  # provenance key of published weights: the hash of the configured weights they were trained from


class ServedModel:
    """Gives the predictor for the current weights.

    Args:
        base: weights file of the configuration (`--conf weights`, or the ones that ship).
        published: where the trainer publishes better ones; need not exist.
        device: torch device, or `auto`.

    Raises:
        CheckpointError: the base weights are missing or do not fit.
        ConfigError: a GPU was asked for and there is none.
    """

    def __init__(
        self, base: Path, published: Path, device: str = "auto", make: Callable[[OnePrompt, str], Predictor] = Predictor
    ) -> None:
        self.base, self.published = base, published
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"--conf device {device} needs a GPU that PyTorch can use, and it finds none: say cpu or auto"
            )
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._make = make
        self._lock = threading.Lock()
        network = load_network(base, self.device)
        self.base_hash = weights_hash(network)
        self._config = network.config
        self._predictor = make(network, self.device)
        self._seen: tuple[int, ...] | None = None
        self._path = base

    @property
    def predictor(self) -> Predictor:
        """The predictor for the weights that are on disk now."""
        with self._lock:
            stamp = _stamp(self.published)
            if stamp != self._seen:
                self._seen = stamp
                self._load(self.published if stamp else self.base)
            return self._predictor

    @property
    def weights_hash(self) -> str:
        """Hash of the weights that the next request will use."""
        return self.predictor.weights_hash

    @property
    def path(self) -> Path:
        """The file of these weights."""
        _ = self.predictor
        return self._path

    def publish(self, path: Path) -> None:
        """Serve uploaded weights from the next request on. Raises CheckpointError where they do not fit."""
        network = load_network(path)
        if network.config != self._config:
            raise CheckpointError(
                f"weights must be of the configuration {self._config.name!r} that is served, got "
                f"{network.config.name!r} with other sizes: start the server with --conf weights FILE to serve those"
            )
        save_network(self.published, network, {**read_provenance(path), BASE: self.base_hash})

    def _load(self, path: Path) -> None:
        if path == self._path == self.base:
            return
        try:
            if path == self.published and read_provenance(path).get(BASE) != self.base_hash:
                logger.warning("%s was trained from other weights than %s and is not served", path, self.base)
                path = self.base
            self._predictor = self._make(load_network(path, self.device), self.device)
            self._path = path
            logger.info("serves the weights %s from %s", self._predictor.weights_hash, path)
        except (CheckpointError, OSError, ValueError) as error:
            logger.error("%s is not served, %s stays: %s", path, self._path, error)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)
