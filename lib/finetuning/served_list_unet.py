"""The list-specific U-Net that is used, as a version: published, withdrawn, used again; loaded anew when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.finetuning.published import Published
from lib.finetuning.versions import PUBLISHED
from lib.segmenters.list_unet import WEIGHT, ListUNet, load_list_unet

FILE = "specialist.safetensors"
WON_FROM = "won_from"  # record key: labelled studies with which it first won, and has won ever since


class ServedListUNet(Published[ListUNet]):
    """The one list-specific U-Net of a study list, or none.

    Args:
        folder: made where it is missing; one without published weights offers none.
        device: torch device.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        super().__init__(folder, FILE, device)

    def read(self, path: Path) -> ListUNet:
        """See `Published`."""
        return load_list_unet(path, self.device)

    @property
    def hash(self) -> str | None:
        """Hash of what is used, None for nothing."""
        current = self.current
        return current.hash if current else None

    def publish(self, unet: ListUNet) -> None:
        """Use this one from now on, in place of another."""
        before = self.current
        count = len(unet.record.get("studies", ()))
        since = before.record.get(WON_FROM, count) if before else count
        record = {"state": PUBLISHED, **unet.record, WON_FROM: min(since, count), WEIGHT: unet.weight}
        self.versions.publish(self.versions.add(unet.network, record))

    def status(self) -> dict[str, Any]:
        """JSON-able: `hash`, `structures`, `share` and record of what is used, and whether one is `withdrawn`."""
        current = self.current
        if current is None:
            return {"hash": None, "withdrawn": self.withdrawn is not None}
        facts = {"hash": current.hash, "structures": list(current.structures), WEIGHT: current.weight}
        return {**current.record, **facts, "withdrawn": False}
