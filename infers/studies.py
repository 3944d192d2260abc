"""A study list as One-Prompt sees it: which studies are templates, what each still needs, and how it is segmented.

Nothing is stored here. Templates are the final labels of the datastore, and what is to be done follows from the
masks' own records: a mask is up to date while the key in its record (templates, weights, labels) is today's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infers.datastore import AUTOMATIC, FINAL, LabelRecord
from infers.errors import ClientError, NotFound
from infers.labels import LabelMap, names_by_value
from lib.images import Image, ImageError, read_image, read_label, write_label
from lib.predictor import Prediction
from lib.templates import Template, TemplateBank

logger = logging.getLogger(__name__)

MODEL = "oneprompt"  # name in the records of masks that this app made
KEY = "key"
CHECKED = "structures"  # in a final label's record: {structure: value}, as found in the label when it was saved
IS_TEMPLATE = "template"  # in a final label's record: False where a person wants it kept out of the bank
MASK_SUFFIX = ".nii.gz"


class Store(Protocol):
    """What is needed of a datastore (`infers.datastore.StudyStore`)."""

    def list_images(self) -> list[str]: ...
    def get_labeled_images(self) -> list[str]: ...
    def get_unlabeled_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def tags(self, image_id: str) -> dict[str, dict[str, Any]]: ...
    def record(self, image_id: str, tag: str) -> LabelRecord | None: ...
    def save_automatic(self, image_id: str, label: Path, info: dict[str, Any]) -> bool: ...
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None: ...
    def promote(self, masks: Mapping[str, tuple[str, dict[str, Any]]]) -> set[str]: ...
    def withdraw(self, image_id: str) -> bool: ...


class Studies:
    """The studies of one datastore with their labels, templates and masks.

    Args:
        store: the datastore.
        labels: names and indices of the structures.
        predictor: gives the predictor for the current weights.
        most_templates: how many templates one study is segmented with.
    """

    def __init__(self, store: Store, labels: LabelMap, predictor: Callable[[], Any], most_templates: int) -> None:
        self.store, self.labels = store, labels
        self._predictor, self._most = predictor, most_templates
        self._lock = threading.RLock()
        self._names: dict[str, dict[str, int]] = {}  # by record checksum
        self._problems: dict[str, tuple[str, str]] = {}  # image id: (record checksum, reason)
        self.bank = TemplateBank(self._template)

    def image(self, image_id: str) -> Image:
        """Read a study's image. Raises ImageError."""
        return read_image(self.store.get_image_uri(image_id))

    def templates(self) -> dict[str, str]:
        """{image id: checksum} of the usable templates; unusable ones are in `problems`."""
        with self._lock:
            records = {}
            for image_id in self.store.get_labeled_images():
                record = self.store.record(image_id, FINAL)
                if record is None or record.info.get(IS_TEMPLATE) is False:
                    continue
                if self._structures(image_id, record):
                    records[image_id] = _record_checksum(record)
            self.bank.refresh(records)
            return records

    @property
    def problems(self) -> dict[str, str]:
        """{image id: reason} of final labels that cannot serve as templates."""
        return {image_id: reason for image_id, (_, reason) in self._problems.items()}

    def key(self) -> str:
        """What a mask made now would depend on: templates, weights and the structures' indices."""
        parts = [self.templates(), self._predictor().weights_hash, self.labels.names, self._most]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def pending(self) -> list[str]:
        """Ids, in the list's order, of studies whose automatic mask is missing or out of date."""
        key = self.key()
        if not self.bank.ids:
            return []
        return [image_id for image_id in self.store.list_images() if self._needs(image_id, key)]

    def count_without_final(self) -> int:
        """How many studies no person has labelled."""
        return len(self.store.get_unlabeled_images())

    def automatic(self, image_id: str) -> LabelRecord | None:
        """The stored automatic mask of a study if it is what would be computed now."""
        record = self.store.record(image_id, AUTOMATIC)
        return record if record and is_ours(record.info) and record.info["params"].get(KEY) == self.key() else None

    def segment(
        self, image_id: str | None, image: Image, only: Mapping[str, int] | None = None, checkpoint: Any = None
    ) -> Prediction:
        """Segment an image by the bank's templates.

        Args:
            image_id: the study, so that it is not its own template while there are others; None for an upload.
            image: the image itself.
            only: structures wanted, {name: index}; None for all that have a template.
            checkpoint: see `Predictor.segment`.

        Raises:
            ClientError: no template has any of the structures.
        """
        key = self.key()
        labels, chosen = {}, {}
        for name, index in (self.labels.names if only is None else only).items():
            for template in self._select(image_id, image, name):
                labels[name], chosen[template.id] = index, template
        if not chosen:
            raise ClientError(
                "there is no template yet"
                + (f" for {', '.join(only)}" if only else "")
                + ": save one study first (segment it with the interactive models or by hand and submit the label)",
                status=409,
            )
        prediction = self._predictor().segment(image, list(chosen.values()), labels, checkpoint=checkpoint)
        prediction.provenance[KEY] = key
        return prediction

    def store_automatic(self, image_id: str, image: Image, prediction: Prediction) -> bool:
        """Save a prediction as the study's automatic mask; False where a person's label came first."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"mask{MASK_SUFFIX}"
            write_label(path, prediction.mask, image)
            return self.store.save_automatic(image_id, path, {"model": MODEL, "params": result_params(prediction)})

    def check_label(self, image_id: str, path: Path, params: Mapping[str, Any]) -> dict[str, int]:
        """Check a label that somebody submits as final: on the image's grid, not empty, with known names.

        Returns:
            {structure: value in the label}, each of them present; their names are learnt.

        Raises:
            ClientError, ImageError: what is wrong and what to do.
        """
        label = read_label(path, self.image(image_id))
        values = np.unique(label)
        values = values[values != 0].tolist()
        if not values:
            raise ClientError("the label is empty: paint at least one structure before submitting it")
        naming = names_by_value(values, params, self.labels.configured)
        self.labels.learn(naming.values())
        return {name: value for value, name in naming.items()}

    def labelled(self) -> list[tuple[str, Path, Path, dict[str, int]]]:
        """(id, image path, label path, {structure: value}) of every usable template."""
        found = []
        for image_id in self.templates():
            record = self.store.record(image_id, FINAL)
            if record is not None:
                names = self._structures(image_id, record)
                found.append((image_id, Path(self.store.get_image_uri(image_id)), record.path, names))
        return found

    def _needs(self, image_id: str, key: str) -> bool:
        try:
            tags = self.store.tags(image_id)
        except NotFound:  # removed meanwhile
            return False
        if FINAL in tags:
            return False
        mask = tags.get(AUTOMATIC)
        # A mask with this tag that somebody else put there is theirs: never overwritten
        return mask is None or (is_ours(mask) and mask["params"].get(KEY) != key)

    def _structures(self, image_id: str, record: LabelRecord) -> dict[str, int]:
        if isinstance(record.info.get(CHECKED), dict):
            return dict(record.info[CHECKED])
        checksum = _record_checksum(record)
        known, problem = self._names.get(checksum), self._problems.get(image_id)
        if known is not None:
            return known
        if problem and problem[0] == checksum:
            return {}
        try:
            self._names[checksum] = self.check_label(image_id, record.path, record.info)
            self._problems.pop(image_id, None)
            return self._names[checksum]
        except (ClientError, ImageError, OSError) as error:
            logger.warning("the final label of %s is no template: %s", image_id, error)
            self._problems[image_id] = (checksum, str(error))
            return {}

    def _template(self, image_id: str) -> Template:
        record = self.store.record(image_id, FINAL)
        if record is None:
            raise ClientError(f"the template {image_id} was removed meanwhile: repeat the request", status=409)
        image = self.image(image_id)
        names = self._structures(image_id, record)
        return Template(image_id, image, read_label(record.path, image), names, checksum=_record_checksum(record))

    def _select(self, image_id: str | None, image: Image, name: str) -> list[Template]:
        templates = self.bank.select(image, name, self._most)
        return [template for template in templates if template.id != image_id] or templates


def result_params(prediction: Prediction) -> dict[str, Any]:
    """What a client is told about a mask. `label_names` holds only structures that are there, in the order of their
    indices: Slicer names the values it finds in this order."""
    present = set(np.unique(prediction.mask).tolist())
    by_index = sorted(prediction.labels.items(), key=lambda item: item[1])
    return {
        "label_names": {name: index for name, index in by_index if index in present},
        "quality": dict(prediction.quality),
        **{key: value for key, value in prediction.provenance.items() if key != "quality"},
    }


def is_ours(info: Mapping[str, Any]) -> bool:
    """Whether a label's record says that this app made the label."""
    return info.get("model") == MODEL and isinstance(info.get("params"), Mapping)


def _record_checksum(record: LabelRecord) -> str:
    naming = {
        key: record.info[key] for key in ("label_info", "label_names", "client_id", CHECKED) if key in record.info
    }
    return hashlib.sha256((record.checksum + json.dumps(naming, sort_keys=True)).encode()).hexdigest()
