"""The labels of a study list: what is checked before one is taken, and the templates and training cases that they are.

Only caches are kept here. Templates are the final labels of the datastore, and prompts where there is no final label.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from infers.errors import ClientError
from infers.label_records import AUTOMATIC, FINAL, PROMPTED, Statement
from infers.limits import MB
from infers.names import LabelMap, choose_names, names_beside
from infers.prompts import parse_prompts
from infers.store.datastore import StoredLabel
from infers.study_list.descriptors import Descriptors
from infers.study_list.store import Store
from lib.finetuning.labelled_study import LabelledStudy
from lib.imaging.files import temporary_folder
from lib.imaging.image_cache import ImageCache
from lib.imaging.images import LABEL_SUFFIXES, Image, ImageError, read_label, read_named_label, write_label
from lib.imaging.label_maps import boxes_of
from lib.inference.templates import LOADED, Summary, Template, TemplateBank
from lib.segmenters.fingerprints import digest

logger = logging.getLogger(__name__)

MASK_SUFFIX = ".nii.gz"
IMAGES_KEPT = 256 * MB


class LabelledStudies:
    """The studies of one datastore with their labels.

    Args:
        store: the datastore.
        labels: names and indices of the structures.
        descriptors: what the studies look like.
        models: names of the models whose masks are this app's own.
        images: those that were read lately; by default a few.
        room: bytes of templates that are kept in memory.
    """

    def __init__(
        self,
        store: Store,
        labels: LabelMap,
        descriptors: Descriptors,
        models: Collection[str],
        images: ImageCache | None = None,
        room: int = LOADED,
    ) -> None:
        self.store, self.labels, self.descriptors, self.models = store, labels, descriptors, models
        self.images = images or ImageCache(IMAGES_KEPT)
        self._lock = threading.RLock()
        self._names: dict[str, dict[str, int]] = {}  # by checksum of the label and its naming
        self._problems: dict[str, tuple[str, str]] = {}  # image id: (label and image, reason)
        self.bank = TemplateBank(self._template, summarise=self._summary, room=room)

    def restore_labels(self) -> None:
        """Bring structures back that stored labels know and `labels.json` does not: it was lost, or left behind."""
        indices: dict[str, int] = {}
        names: list[str] = []
        for records in self.store.all_records():
            mask, final = records.get(AUTOMATIC), records.get(FINAL)
            made = mask.provenance if mask else None
            indices |= (made.structures if made else None) or {}
            names += (final.structures if final else None) or ()
        self.labels.restore(indices, names)

    def require_template(self) -> None:
        """Raise ClientError where there is no template yet."""
        if not self.templates():
            raise ClientError("there is no template yet: save one study first", status=409)

    def image(self, image_id: str) -> Image:
        """Read a study's image. Raises ImageError."""
        image = self.images.read(self.store.get_image_uri(image_id))
        self.store.note_image(image_id, image.note)
        return image

    def templates(self) -> dict[str, str]:
        """{image id: checksum} of the usable templates, painted or prompted; unusable ones are in `problems`."""
        with self._lock:
            records = {}
            for image_id in self.store.get_labeled_images():
                label = self.store.label(image_id, FINAL)
                if label is None or not label.record.template:
                    continue
                if self._structures(image_id, label):
                    records[image_id] = _template_checksum(label)
            for image_id in self.store.with_tag(PROMPTED):
                prompted = self.store.label(image_id, PROMPTED)
                if prompted is not None and FINAL not in self.store.records(image_id):
                    records[image_id] = _template_checksum(prompted)
            self.bank.refresh(records)
            return records

    def painted(self) -> dict[str, str]:
        """{image id: checksum} of those of them that have a final label: what can be learnt from and checked."""
        templates = self.templates()
        prompted = {image_id for image_id in self.store.with_tag(PROMPTED) if FINAL not in self.store.records(image_id)}
        return {image_id: checksum for image_id, checksum in templates.items() if image_id not in prompted}

    @property
    def problems(self) -> dict[str, str]:
        """{image id: reason} of labels that cannot serve as templates."""
        return {**self.store.problems(), **{image_id: reason for image_id, (_, reason) in self._problems.items()}}

    def labelled(self) -> list[LabelledStudy]:
        """Every usable template with a final label, to learn from."""
        studies = []
        for image_id, checksum in self.painted().items():
            label = self.store.label(image_id, FINAL)
            if label is not None:
                image, names = Path(self.store.get_image_uri(image_id)), self._structures(image_id, label)
                manual = label.record.manually_annotated
                studies.append(LabelledStudy(image_id, image, label.path, names, checksum, manual))
        return studies

    @contextmanager
    def as_label_map(self, image_id: str, path: Path, statement: Statement) -> Iterator[tuple[Path, Statement]]:
        """A label as a file that every client opens, with the names that the file itself brought.

        DICOM SEG, 3D Slicer's segmentations and formats that no mask is written in become NIfTI on the image's grid;
        a plain label map stays the file that it is.

        Raises:
            ImageError: it cannot be read, or lies elsewhere.
        """
        image = self.image(image_id)
        label, names = read_named_label(path, image)
        if not names and path.name.lower().endswith(LABEL_SUFFIXES):
            yield path, statement
            return
        if names and not statement.naming:
            statement = replace(statement, label_names={name: value for value, name in names.items()})
        with temporary_folder() as folder:
            plain = Path(folder) / f"label{MASK_SUFFIX}"
            write_label(plain, label, image)
            yield plain, statement

    def check_label(self, image_id: str, path: Path, statement: Statement) -> dict[str, int]:
        """Check a label that somebody submits as final: on the image's grid, not empty, with known names.

        Returns:
            {structure: value in the label}, each of them present; their names are learnt.

        Raises:
            ClientError, ImageError: what is wrong and what to do.
        """
        label, own = read_named_label(path, self.image(image_id))
        values = list(boxes_of(label))
        if not values:
            raise ClientError("the label is empty: paint at least one structure before submitting it")
        naming = choose_names(values, statement.naming, self._naming_sources(image_id, path, own), self.labels)
        self.labels.learn(naming.values())
        return {name: value for value, name in naming.items()}

    def _naming_sources(self, image_id: str, path: Path, own: Mapping[int, str]) -> Iterator[Mapping[int, str]]:
        """{value: structure} that may be meant in a label without names, the nearest source first: its own file, a
        record beside it, the label that it replaces, and the mask that this app made."""
        yield own
        yield names_beside(path)
        for tag in (FINAL, AUTOMATIC):
            label = self.store.label(image_id, tag)
            if label is not None and (label.path != path or tag == AUTOMATIC):
                made = label.record.made_by(self.models)
                names = label.record.structures if made is None else made.label_names
                yield {value: name for name, value in (names or {}).items()}

    def _structures(self, image_id: str, label: StoredLabel) -> dict[str, int]:
        if label.record.structures is not None:
            return dict(label.record.structures)
        checksum = _template_checksum(label)
        # What was wrong with the label may have been the image, or that the list did not know its structures yet
        seen = checksum + self.store.image_stamp(image_id) + digest(self.labels.names)
        known, problem = self._names.get(checksum), self._problems.get(image_id)
        if known is not None:
            return known
        if problem and problem[0] == seen:
            return {}
        try:
            self._names[checksum] = self.check_label(image_id, label.path, label.record.statement)
            self._problems.pop(image_id, None)
            return self._names[checksum]
        except (ClientError, ImageError, OSError) as error:
            logger.warning("the final label of %s is no template: %s", image_id, error)
            self._problems[image_id] = (seen, str(error))
            return {}

    def _template(self, image_id: str) -> Template:
        label = self._shown_by(image_id)
        if label is None:
            raise ClientError(f"the template {image_id} was removed meanwhile: repeat the request", status=409)
        image = self.image(image_id)
        if label.record.prompts is not None:
            prompts = parse_prompts(label.record.prompts, image.array.shape)
            return Template(image_id, image, None, {}, prompts, _template_checksum(label))
        names = self._structures(image_id, label)
        return Template(image_id, image, read_label(label.path, image), names, checksum=_template_checksum(label))

    def _shown_by(self, image_id: str) -> StoredLabel | None:
        """What makes a study a template: its final label, else its prompts."""
        return self.store.label(image_id, FINAL) or self.store.label(image_id, PROMPTED)

    def _summary(self, image_id: str) -> Summary:
        label = self._shown_by(image_id)
        try:
            descriptor = self.descriptors.of(image_id)
        except (ClientError, ImageError, OSError) as error:
            logger.warning("the template %s cannot be read: %s", image_id, error)
            return Summary((), np.zeros(0))
        return Summary(tuple(self._structures(image_id, label)) if label else (), descriptor)


def _template_checksum(label: StoredLabel) -> str:
    naming = json.dumps(label.record.naming, sort_keys=True)
    return hashlib.sha256((label.checksum + naming).encode()).hexdigest()
