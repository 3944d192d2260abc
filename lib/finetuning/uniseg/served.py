"""The UniSeg that a study list uses: what its training published, else a configured model, else none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.finetuning.published import Published
from lib.finetuning.versions import PUBLISHED, UPLOADED
from lib.segmenters.uniseg.model import UniSegModel, load_model
from lib.segmenters.uniseg.segmenter import UniSegSegmenter

FILE = "uniseg.safetensors"


class ServedUniSeg(Published[UniSegModel]):
    """The one UniSeg of a study list, or none.

    Args:
        folder: made where it is missing; one without published weights offers the configured model.
        device: torch device.
        configured: a model to offer where nothing is published, and to begin trainings with; None for none.

    Raises:
        CheckpointError: the configured model is none.
    """

    def __init__(self, folder: Path, device: str = "cpu", configured: Path | None = None) -> None:
        super().__init__(folder, FILE, device)
        self.configured = configured
        self._start = load_model(configured, device) if configured else None
        self._making = threading.Lock()
        self._segmenter: UniSegSegmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads the files itself."""
        return {**super().__getstate__(), "configured": self.configured}

    def read(self, path: Path) -> UniSegModel:
        """See `Published`."""
        return load_model(path, self.device)

    @property
    def start(self) -> UniSegModel | None:
        """The configured model."""
        return self._start

    @property
    def model(self) -> UniSegModel | None:
        """What is offered."""
        return self.current or self._start

    @property
    def segmenter(self) -> UniSegSegmenter | None:
        """The same on its device; one object as long as it does not change."""
        with self._making:
            model = self.model
            if model is None:
                self._segmenter = None
            elif self._segmenter is None or self._segmenter.model is not model:
                self._segmenter = UniSegSegmenter(model, self.device)
            return self._segmenter

    @property
    def file(self) -> Path:
        """The file of what is offered; where it would be, if nothing is."""
        return self.configured if self.configured and not self.path.exists() else self.path

    @property
    def fingerprint(self) -> str | None:
        """Of what training published, None for nothing."""
        current = self.current
        return current.fingerprint if current else None

    def better_than(self, other: Mapping[str, Any]) -> bool:
        """Whether a training of this list published it, and it answered held-out studies better than another network.

        Args:
            other: record of the other's training; {} for none.
        """
        current = self.current
        own = _held_out(current.record) if current else None
        return own is not None and own > (_held_out(other) or 0.0)

    def publish(self, model: UniSegModel) -> str:
        """Offer this one from now on, in place of another; its hash."""
        name = self.versions.add(model.network, {"state": PUBLISHED, **model.provenance})
        self.versions.publish(name)
        return name

    def publish_upload(self, model: UniSegModel) -> str:
        """The same of one from elsewhere: what its file says of itself is kept, and is no record of this list's."""
        record = {"state": UPLOADED, "licence": model.licence, UPLOADED: dict(model.record)}
        return self.publish(UniSegModel(model.network, model.tasks, record))

    def status(self) -> dict[str, Any]:
        """JSON-able: `hash`, `structures`, `licence` and record of what is offered, and whether one is `withdrawn`."""
        model = self.model
        withdrawn = self.withdrawn is not None
        if model is None:
            return {"hash": None, "withdrawn": withdrawn}
        facts = {"hash": model.hash, "structures": list(model.structures), "licence": model.licence}
        return {**model.record, **facts, "configured": self.current is None, "withdrawn": withdrawn}


def _held_out(record: Mapping[str, Any]) -> float | None:
    """Mean Dice on held-out studies of what a training published; None where it was not trained here."""
    after = record.get("after")
    return float(after["dice"]) if isinstance(after, Mapping) and "dice" in after else None
