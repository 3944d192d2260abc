"""The PromptSeg that was fine-tuned on a study list: published, withdrawn, used again; loaded anew when it changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.finetuning.published import Published
from lib.finetuning.versions import PUBLISHED, UPLOADED
from lib.networks.checkpoints import load_network, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg

FILE = "promptseg.safetensors"
BASE = "base"  # record key: hash of the configured weights that it was trained from


class TunedPromptSeg(Published[tuple[PromptSeg, dict[str, Any]]]):
    """The one PromptSeg that a study list published, with its record; or none.

    Args:
        folder: made where it is missing.
        device: torch device.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        super().__init__(folder, FILE, device)

    def read(self, path: Path) -> tuple[PromptSeg, dict[str, Any]]:
        """See `Published`."""
        return load_network(path, self.device, PromptSeg), read_provenance(path)

    def of(self, base: str) -> PromptSeg | None:
        """The network, where it was trained from weights with this hash."""
        current = self.current
        return current[0] if current and current[1].get(BASE) == base else None

    @property
    def hash(self) -> str | None:
        """Of what is published, None for nothing."""
        current = self.current
        return weights_hash(current[0]) if current else None

    def publish(self, network: PromptSeg, record: Mapping[str, Any], uploaded: bool = False) -> str:
        """Offer this one from now on, in place of another; its hash."""
        name = self.versions.add(network, {"state": UPLOADED if uploaded else PUBLISHED, **record})
        self.versions.publish(name)
        return name

    def status(self) -> dict[str, Any]:
        """JSON-able: `hash` and record of what is published, and whether one is `withdrawn`."""
        current = self.current
        record = current[1] if current else {}
        return {**record, "hash": self.hash, "withdrawn": self.withdrawn is not None}
