"""Results that an annotator marked *use as template*, from clients that cannot submit a label (OHIF).

The option sticks in the client, so every later click carries it too. A result is therefore accepted only when no newer
one came for some quiet seconds, and never over a label that a person submitted. What waits is also on disk
(`infers/study_list/pending_results.py`): after a restart it waits again, as long as before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infers.errors import ClientError, NotFound, reason_of
from infers.label_records import AS_RESULT, FINAL, LabelRecord, Provenance, Statement
from infers.store.datastore import StoredLabel
from infers.study_list.pending_results import PendingResult, PendingResults
from lib.imaging.files import temporary_folder
from lib.imaging.images import Image, ImageError, read_image, read_label, write_label
from lib.segmenters.contract import Prediction

logger = logging.getLogger(__name__)


class FinalStore(Protocol):
    """What is needed of the datastore."""

    def get_image_uri(self, image_id: str) -> str: ...
    def label(self, image_id: str, tag: str) -> StoredLabel | None: ...
    def save_accepted(self, image_id: str, label: Path, record: LabelRecord, over: StoredLabel | None) -> bool: ...


class Acceptance:
    """Waits for quiet and then saves the newest result as the study's final label.

    Args:
        store: the datastore.
        pending: where results wait.
        quiet_seconds: how long no newer result must come.
        accepted: called with the image id after a label was saved.
        learn: gives indices to names of structures, {name: index}.
        read: gives the image in a file.
    """

    def __init__(
        self,
        store: FinalStore,
        pending: PendingResults,
        quiet_seconds: float,
        accepted: Callable[[str], Any],
        learn: Callable[[list[str]], dict[str, int]],
        read: Callable[[str], Image] = read_image,
    ) -> None:
        self._store, self._kept, self._quiet = store, pending, quiet_seconds
        self._accepted, self._learn, self._read = accepted, learn, read
        self._lock = threading.Lock()
        self._results: dict[str, PendingResult] = {}
        self._timers: dict[str, threading.Timer] = {}

    def start(self) -> None:
        """In the server process: let what waited when a former process ended wait again."""
        for image_id, result in self._kept.read():
            with self._lock:
                if image_id not in self._results:
                    self._results[image_id] = result
                    self._wait(image_id)

    def put(self, image_id: str, prediction: Prediction, user: str = "") -> None:
        """Take a result as the study's newest; `user` asked for it."""
        with self._lock:
            former = self._results.get(image_id)
            masks = {name: prediction.mask == index for name, index in prediction.labels.items()}
            result = PendingResult({**(former.masks if former else {}), **masks}, dict(prediction.provenance), user)
            self._kept.put(image_id, result)
            self._results[image_id] = result
            self._wait(image_id)

    def waiting(self) -> list[str]:
        """Ids of studies with a result that waits for quiet."""
        with self._lock:
            return list(self._results)

    def accept_now(self, image_id: str, user: str) -> bool:
        """Do not wait any longer: save the newest result for a study, as a decision of `user`.

        Returns:
            False where a person submitted a label for it, or the result is empty.

        Raises:
            NotFound: no result waits.
        """
        with self._lock:
            result = self._results.pop(image_id, None)
            if result is None:
                raise NotFound(f"no interactive result waits for {image_id!r}: it was accepted already, or none came")
            self._timers.pop(image_id).cancel()
        try:
            saved = self._save(image_id, result, user)
        except Exception:
            self._put_back(image_id, result)  # not lost: the person can try again
            raise
        self._done(image_id, saved)
        return saved

    def _put_back(self, image_id: str, result: PendingResult) -> None:
        """Let a result wait again that could not be saved."""
        with self._lock:
            newer = self._results.get(image_id)
            if newer is None:
                self._results[image_id] = result
                self._wait(image_id)
            else:  # it waits already, without the structures that only the older one has
                self._results[image_id] = replace(newer, masks={**result.masks, **newer.masks})
                self._kept.put(image_id, self._results[image_id])

    def _wait(self, image_id: str) -> None:
        if former := self._timers.get(image_id):
            former.cancel()
        timer = self._timers[image_id] = threading.Timer(self._quiet, self._accept, [image_id])
        timer.daemon = True
        timer.start()

    def _accept(self, image_id: str) -> None:
        with self._lock:
            if self._timers.get(image_id) is not threading.current_thread():
                return  # a newer result came just now
            result = self._results.pop(image_id)
            del self._timers[image_id]
        saved = False
        try:
            saved = self._save(image_id, result)
        except (ClientError, ImageError) as error:  # which no waiting mends
            logger.error("the result for %s did not become a template: %s", image_id, error)
        except Exception as error:  # a full disk, or a DICOMweb server that is away: it may be otherwise the next time
            known = isinstance(error, OSError)  # those of requests are, too
            logger.error("the result for %s waits again: %s", image_id, reason_of(error), exc_info=not known)
            self._put_back(image_id, result)
            return
        self._done(image_id, saved)

    def _done(self, image_id: str, saved: bool) -> None:
        with self._lock:
            if image_id not in self._results:  # else a newer one has come, which waits
                self._kept.remove(image_id)
        if saved:
            self._accepted(image_id)

    def _save(self, image_id: str, result: PendingResult, user: str = "") -> bool:
        """Save a result; False where a person submitted a label, or the result is empty."""
        while (saved := self._try(image_id, result, user)) is None:
            logger.info("the label of %s changed while a result was added to it: that is done again", image_id)
        return saved

    def _try(self, image_id: str, result: PendingResult, user: str) -> bool | None:
        """As `_save`; None where the final label changed meanwhile."""
        former = self._store.label(image_id, FINAL)
        if former and former.record.submitted:
            logger.info("the result for %s does not replace the label that was submitted", image_id)
            return False
        image = self._read(self._store.get_image_uri(image_id))
        if any(mask.shape != image.array.shape for mask in result.masks.values()):
            raise ClientError(f"the image {image_id!r} changed since the result was made: segment it again", 409)
        # Of the board's acceptances, or of these
        names = dict(former.record.structures or former.record.statement.label_names or {}) if former else {}
        label = read_label(former.path, image) if former else np.zeros(image.array.shape, np.uint8)
        names = {**names, **self._learn(list(result.masks))}
        for name, mask in result.masks.items():
            label[label == names[name]] = 0
            label[mask] = names[name]
        if not label.any():
            logger.info("the result for %s is empty and does not become a template", image_id)
            return False
        with temporary_folder() as folder:
            path = Path(folder) / "label.nii.gz"
            write_label(path, label, image)
            names = {name: value for name, value in names.items() if (label == value).any()}
            record = LabelRecord(
                Statement(label_names=names),
                author=user or result.user or None,
                accepted=AS_RESULT,
                provenance=Provenance.from_json(result.provenance),
            )
            return self._store.save_accepted(image_id, path, record, over=former) or None
