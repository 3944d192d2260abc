"""What a model of a study list is made of: published weights in a file that may change, or none.

A changed file is loaded when it is next asked for; one that cannot be read offers nothing. Whatever was published is
kept as a version (`lib.finetuning.versions`), so that it can be withdrawn and used again.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from lib.finetuning.versions import FOLDER, Versions
from lib.imaging.reloading import Reloading
from lib.networks.checkpoints import CheckpointError

logger = logging.getLogger(__name__)

FORMERLY_WITHDRAWN = "withdrawn.safetensors"  # where earlier releases kept what was taken away

Loaded = TypeVar("Loaded")


class Published(ABC, Generic[Loaded]):
    """The published weights of one model, loaded.

    Args:
        folder: made where it is missing; one without the file offers none.
        file: name of the published file in it.
        device: torch device.
    """

    def __init__(self, folder: Path, file: str, device: str = "cpu") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.device = folder / file, device
        self.versions = Versions(folder / FOLDER, self.path)
        self._reloading = Reloading[Loaded | None](
            self.path, lambda: None, lambda exists, old: self._read(self.path) if exists else None
        )
        former = folder / FORMERLY_WITHDRAWN
        if former.exists():
            self.versions.adopt(former)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads the file itself."""
        return {"folder": self.path.parent, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @abstractmethod
    def read(self, path: Path) -> Loaded:
        """Load a weights file onto the device. Raises CheckpointError, OSError."""

    @property
    def current(self) -> Loaded | None:
        """What is published now; None for nothing, or for a file that cannot be read."""
        return self._reloading.current()

    @property
    def withdrawn(self) -> str | None:
        """The version that `use_again` would publish: the newest one, where nothing is published."""
        if self.path.exists():
            return None
        return next((record["hash"] for record in self.versions.all()), None)

    def withdraw(self) -> bool:
        """Offer none; it stays a version. Whether there was one."""
        if not self.path.exists():
            return False
        self.versions.withdraw()
        return True

    def use_again(self) -> bool:
        """Publish the one withdrawn last, unless another is published; whether there was one that can be read."""
        name = self.withdrawn
        if name is None or self._read(self.versions.path(name)) is None:
            return False
        self.versions.publish(name)
        return True

    def _read(self, path: Path) -> Loaded | None:
        try:
            return self.read(path)
        except (CheckpointError, OSError) as error:
            logger.error("the model is not offered: %s", error)
            return None
