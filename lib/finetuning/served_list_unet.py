"""The specialist that is offered, as a file: published, withdrawn, used again; loaded anew when it changes."""

from __future__ import annotations

import dataclasses
import logging
import threading
from pathlib import Path
from typing import Any

from lib.imaging.files import stamp_of
from lib.networks.checkpoints import CheckpointError
from lib.segmenters.list_unet import ListUNet, load_specialist, save_specialist

logger = logging.getLogger(__name__)

FILE = "specialist.safetensors"
WITHDRAWN = "withdrawn.safetensors"
WON_FROM = "won_from"  # record key: labelled studies with which it first won, and has won ever since


class ServedListUNet:
    """The one specialist of a study list, or none.

    Args:
        folder: made where it is missing; one without a specialist offers none.
        device: torch device.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._withdrawn, self._device = folder / FILE, folder / WITHDRAWN, device
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._current: ListUNet | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads the file itself."""
        return {"folder": self.path.parent, "device": self._device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def current(self) -> ListUNet | None:
        """What is offered now; a file that cannot be read offers nothing."""
        with self._lock:
            stamp = stamp_of(self.path)
            if stamp != self._seen:
                self._current, self._seen = _loaded(self.path, self._device) if stamp else None, stamp
            return self._current

    @property
    def hash(self) -> str | None:
        """Hash of what is offered, None for nothing."""
        current = self.current
        return current.hash if current else None

    def publish(self, specialist: ListUNet) -> None:
        """Offer this one from now on, in place of another."""
        before = self.current
        count = len(specialist.record.get("studies", ()))
        since = before.record.get(WON_FROM, count) if before else count
        save_specialist(
            self.path, dataclasses.replace(specialist, record={**specialist.record, WON_FROM: min(since, count)})
        )

    def withdraw(self) -> bool:
        """Offer none; the file is kept. Whether there was one."""
        return _moved(self.path, self._withdrawn)

    def use_again(self) -> bool:
        """Offer the one withdrawn last, unless another is offered; whether there was one that can be read."""
        return not self.path.exists() and _loaded(self._withdrawn) is not None and _moved(self._withdrawn, self.path)

    def told(self) -> dict[str, Any]:
        """JSON-able: `hash`, `structures`, `share` and record of what is offered, and whether one is `withdrawn`."""
        current = self.current
        if current is None:
            return {"hash": None, "withdrawn": self._withdrawn.exists()}
        told = {"hash": current.hash, "structures": list(current.structures), "share": current.share}
        return {**current.record, **told, "withdrawn": False}


def _loaded(path: Path, device: str = "cpu") -> ListUNet | None:
    try:
        return load_specialist(path, device)
    except (CheckpointError, OSError) as error:
        logger.error("the specialist is not offered: %s", error)
        return None


def _moved(source: Path, target: Path) -> bool:
    try:
        source.replace(target)
    except FileNotFoundError:
        return False
    return True
