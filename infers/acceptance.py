"""Results that an annotator marked *use as template*, from clients that cannot submit a label (OHIF).

The option sticks in the client, so every later click carries it too. A result is therefore accepted only when no newer
one came for some quiet seconds, and never over a label that a person submitted.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infers.datastore import ACCEPTED, FINAL, LabelRecord
from infers.errors import ClientError, NotFound
from lib.images import Image, ImageError, read_label, write_label
from lib.predictor import Prediction

logger = logging.getLogger(__name__)


class FinalStore(Protocol):
    """What is needed of the datastore."""

    def record(self, image_id: str, tag: str) -> LabelRecord | None: ...
    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str: ...


@dataclass
class _Offer:
    """The newest results for one study: {structure: (mask, slices it speaks about or None for all)}."""

    image: Image
    timer: threading.Timer
    provenance: dict[str, Any]
    masks: dict[str, tuple[np.ndarray, list[int] | None]] = field(default_factory=dict)


class Acceptance:
    """Waits for quiet and then saves the newest result as the study's final label.

    Args:
        store: the datastore.
        quiet_seconds: how long no newer result must come.
        accepted: called with the image id after a label was saved.
        learn: gives indices to names of structures, {name: index}.
    """

    def __init__(
        self,
        store: FinalStore,
        quiet_seconds: float,
        accepted: Callable[[str], Any],
        learn: Callable[[list[str]], dict[str, int]],
    ) -> None:
        self._store, self._quiet, self._accepted, self._learn = store, quiet_seconds, accepted, learn
        self._lock = threading.Lock()
        self._offers: dict[str, _Offer] = {}

    def offer(self, image_id: str, image: Image, prediction: Prediction, slices: list[int] | None = None) -> None:
        """Take a result as the study's newest; `slices` (along k) where it says nothing about the others."""
        timer = threading.Timer(self._quiet, self._accept, [image_id])
        timer.daemon = True
        with self._lock:
            former = self._offers.get(image_id)
            if former:
                former.timer.cancel()
            masks = former.masks if former else {}
            for name, index in prediction.labels.items():
                masks[name] = _joined(masks.get(name), prediction.mask == index, slices)
            self._offers[image_id] = _Offer(image, timer, dict(prediction.provenance), masks)
        timer.start()

    def waiting(self) -> list[str]:
        """Ids of studies with a result that waits for quiet."""
        with self._lock:
            return list(self._offers)

    def accept_now(self, image_id: str, user: str) -> bool:
        """Do not wait any longer: save the newest result for a study.

        Returns:
            False where a person submitted a label for it, or the result is empty.

        Raises:
            NotFound: no result waits.
        """
        with self._lock:
            offer = self._offers.pop(image_id, None)
            if offer is None:
                raise NotFound(f"no interactive result waits for {image_id!r}: it was accepted already, or none came")
            offer.timer.cancel()
        try:
            saved = self._save(image_id, offer, user)
        except Exception:
            with self._lock:
                self._offers.setdefault(image_id, offer)  # not lost: the person can try again
            raise
        if saved:
            self._accepted(image_id)
        return saved

    def _accept(self, image_id: str) -> None:
        with self._lock:
            offer = self._offers.get(image_id)
            if offer is None or offer.timer is not threading.current_thread():
                return  # a newer result came just now
            del self._offers[image_id]
        try:
            if self._save(image_id, offer):
                self._accepted(image_id)
        except (ClientError, ImageError, OSError) as error:
            logger.error("the result for %s did not become a template: %s", image_id, error)

    def _save(self, image_id: str, offer: _Offer, user: str = "") -> bool:
        former = self._store.record(image_id, FINAL)
        if former and ACCEPTED not in former.info:
            logger.info("the result for %s does not replace the label that was submitted", image_id)
            return False
        names = dict(former.info.get("label_names", {})) if former else {}
        label = read_label(former.path, offer.image) if former else np.zeros(offer.image.array.shape, np.uint8)
        names = {**names, **self._learn(list(offer.masks))}
        for name, (mask, slices) in offer.masks.items():
            where = np.ones(mask.shape, bool) if slices is None else np.isin(np.arange(mask.shape[2]), slices)
            label[(label == names[name]) & where] = 0
            label[mask & where] = names[name]
        if not label.any():
            logger.info("the result for %s is empty and does not become a template", image_id)
            return False
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.nii.gz"
            write_label(path, label, offer.image)
            names = {name: value for name, value in names.items() if (label == value).any()}
            info = {ACCEPTED: "interactive result", "label_names": names, "provenance": offer.provenance}
            self._store.save_label(image_id, str(path), FINAL, {**info, **({"user": user} if user else {})})
        return True


def _joined(
    former: tuple[np.ndarray, list[int] | None] | None, mask: np.ndarray, slices: list[int] | None
) -> tuple[np.ndarray, list[int] | None]:
    if former is None or slices is None:
        return mask, slices
    joined = former[0].copy()
    joined[..., slices] = mask[..., slices]
    return joined, None if former[1] is None else sorted({*former[1], *slices})
