"""A study list as One-Prompt sees it: which studies are templates, what each still needs, and how it is segmented.

Nothing is stored here. Templates are the final labels of the datastore, and what is to be done follows from the
masks' own records: a mask is up to date while the key in its record is the one it would get today. That key speaks of
the templates that the bank chooses for this study, so a new template concerns only the studies that it is chosen for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, PROMPTED, LabelRecord, Provenance, Statement
from infers.names import LabelMap, choose_names, names_beside
from infers.prompts import said_prompts
from infers.store.datastore import StoredLabel
from infers.study_list.descriptors import Descriptors
from infers.study_list.predicted_quality import PredictedQuality
from lib.finetuning.labelled_study import LabelledStudy
from lib.imaging.images import LABEL_SUFFIXES, Image, ImageError, read_image, read_label, read_named_label, write_label
from lib.inference.control import Control
from lib.inference.templates import Summary, Template, TemplateBank, thumbnail
from lib.segmenters import registry
from lib.segmenters.contract import Prediction, Segmenter
from lib.segmenters.fingerprints import digest, mask_fingerprint, template_fingerprint

logger = logging.getLogger(__name__)

MODEL = "oneprompt"  # name in the records of masks that this app made
SPECIALIST = "oneprompt_specialist"  # name of its model and trainer
MODELS = frozenset(registry.MODELS)  # whose masks this app may replace and remove
MASK_SUFFIX = ".nii.gz"


class Store(Protocol):
    """What is needed of a datastore (`infers.store.datastore.StudyStore`)."""

    def list_images(self) -> list[str]: ...
    def get_labeled_images(self) -> list[str]: ...
    def with_tag(self, tag: str) -> list[str]: ...
    def get_unlabeled_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def image_stamp(self, image_id: str) -> str: ...
    def records(self, image_id: str) -> dict[str, LabelRecord]: ...
    def label(self, image_id: str, tag: str) -> StoredLabel | None: ...
    def save_automatic(self, image_id: str, label: Path, record: LabelRecord, models: Collection[str]) -> bool: ...
    def amend(self, image_id: str, tag: str, change: Callable[[LabelRecord], LabelRecord]) -> None: ...
    def save(self, image_id: str, label: Path, tag: str, record: LabelRecord) -> None: ...
    def promote(self, masks: Mapping[str, tuple[str, LabelRecord]]) -> set[str]: ...
    def at_once(self) -> AbstractContextManager[None]: ...
    def withdraw(self, image_id: str) -> bool: ...
    def remove_label(self, label_id: str, label_tag: str) -> None: ...
    def set_aside(self, image_id: str, tag: str) -> None: ...
    def remove_automatic(self, models: Collection[str]) -> list[str]: ...
    def get_image_info(self, image_id: str) -> dict[str, Any]: ...
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str: ...
    def all_records(self) -> list[dict[str, LabelRecord]]: ...
    def forget(self) -> None: ...
    def study_uid(self, image_id: str) -> str: ...
    @property
    def on_dicomweb(self) -> bool: ...
    def problems(self) -> dict[str, str]: ...
    def unreadable(self) -> dict[str, str]: ...
    def notes(self) -> dict[str, str]: ...
    def note_image(self, image_id: str, note: str) -> None: ...


class Studies:
    """The studies of one datastore with their labels, templates and masks.

    Args:
        store: the datastore.
        labels: names and indices of the structures.
        segmenter: gives the model that segments the list, with its current weights.
        most_templates: how many templates one study is segmented with.
        looks: what the studies look like.
        refreshed: masks are made again by themselves; until then those of older weights answer.
        by_templates: gives the model for what templates alone say, where `segmenter` has learnt from the list's own
            labels; by default the same.
        models: names of the models whose masks are this app's own: only those are replaced or removed.
    """

    def __init__(
        self,
        store: Store,
        labels: LabelMap,
        segmenter: Callable[[], Segmenter],
        most_templates: int,
        looks: Descriptors,
        refreshed: bool = True,
        by_templates: Callable[[], Segmenter] | None = None,
        models: Collection[str] = MODELS,
    ) -> None:
        self.store, self.labels, self.looks = store, labels, looks
        self._segmenter, self._by_templates = segmenter, by_templates or segmenter
        self._most, self._refreshed, self.models = most_templates, refreshed, models
        self.quality = PredictedQuality()
        self._lock = threading.RLock()
        self._names: dict[str, dict[str, int]] = {}  # by record checksum
        self._problems: dict[str, tuple[str, str]] = {}  # image id: (label and image, reason)
        self._keys: tuple[str, dict[str, str]] = ("", {})  # what they depend on, {image id: key}
        self.bank = TemplateBank(self._template, summarise=self._summary)

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
        image = read_image(self.store.get_image_uri(image_id))
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

    def key(self) -> str:
        """Changes with the templates, the weights and the structures' indices: some masks may be out of date then."""
        return self._state(self._segmenter())

    def _state(self, segmenter: Segmenter) -> str:
        return digest([self.templates(), segmenter.fingerprint, self.labels.names, self._most])

    def keys(self) -> Callable[[str], str | None]:
        """A function from a study to the key of the mask that it would get now; None where nobody looked at it yet."""
        segmenter = self._segmenter()
        state = self._state(segmenter)
        with self._lock:
            if self._keys[0] != state:
                self._keys = (state, {})
            known = self._keys[1]

        def key_of(image_id: str) -> str | None:
            if image_id not in known and (look := self.looks.get(image_id)) is not None:
                choice = self._choice(segmenter, image_id, look, self.labels.names)
                known[image_id] = mask_fingerprint(self._template_fingerprint(choice), segmenter.fingerprint)
            return known.get(image_id)

        return key_of

    def key_now(self, image_id: str, image: Image) -> str:
        """The key of the mask that a study would get now."""
        self.looks.of(image_id, image)
        return self.keys()(image_id) or ""

    def pending(self) -> list[str]:
        """Ids of studies whose mask is missing, in the list's order, then of those whose mask may be out of date, worst
        predicted first."""
        key_of = self.keys()
        if not self.bank.ids and self._segmenter().capabilities.most_templates:
            return []
        needing = [image_id for image_id in self.store.list_images() if self._needs(image_id, key_of)]
        return sorted(needing, key=self._predicted)

    def count_without_final(self) -> int:
        """How many studies no person has labelled."""
        return len(self.store.get_unlabeled_images())

    def own_mask(self, image_id: str) -> tuple[StoredLabel, Provenance] | None:
        """The automatic mask of a study, and what made it, if that is a model of this app."""
        mask = self.store.label(image_id, AUTOMATIC)
        made = mask.record.made_by(self.models) if mask else None
        return (mask, made) if mask and made else None

    def automatic(self, image_id: str, image: Image, older_weights: bool = False) -> StoredLabel | None:
        """The stored automatic mask of a study if it is what would be computed now.

        Args:
            image_id, image: the study.
            older_weights: also one of the same templates and other weights, where the job is to make it again: new
                weights must not make everybody wait who asks before that.
        """
        own = self.own_mask(image_id)
        if own is None:
            return None
        mask, made = own
        if not self.is_of_image(image_id, made):
            return None
        if made.fingerprint == self.key_now(image_id, image):
            return mask
        if older_weights and self._refreshed:
            choice = self._choice(self._segmenter(), image_id, self.looks.of(image_id, image), self.labels.names)
            return mask if made.template_fingerprint == self._template_fingerprint(choice) else None
        return None

    def segment(
        self,
        image_id: str | None,
        image: Image,
        only: Mapping[str, int] | None = None,
        control: Control = Control(),
        by_templates_alone: bool = False,
    ) -> Prediction:
        """Segment an image: by the bank's templates, or by what the model knows.

        Args:
            image_id: the study, so that it is not its own template while there are others; None for an upload.
            image: the image itself.
            only: structures wanted, {name: index}; None for all that have a template.
            control: follows the work and may end it.
            by_templates_alone: leave out a model that has learnt from the list's own labels.

        Raises:
            ClientError: no template has any of the structures.
        """
        self.templates()
        wanted = dict(self.labels.names if only is None else only)
        look = self.looks.of(image_id, image) if image_id else thumbnail(image)
        segmenter = (self._by_templates if by_templates_alone else self._segmenter)()  # once: it may change meanwhile
        choice = self._choice(segmenter, image_id, look, wanted)
        if not choice:
            raise ClientError(
                "there is no template yet"
                + (f" for {', '.join(only)}" if only else "")
                + ": save one study first (segment it with the interactive models or by hand and submit the label)",
                status=409,
            )
        templates = self._template_fingerprint(choice)
        fingerprints = {"key": mask_fingerprint(templates, segmenter.fingerprint), "basis": templates}
        chosen = {id: self.bank.get(id) for ids in choice.values() for id in ids}
        labels = {name: wanted[name] for name in choice}
        prediction = segmenter.segment(image, list(chosen.values()), labels, control=control)
        return replace(prediction, provenance={**prediction.provenance, **fingerprints})

    def is_of_image(self, image_id: str, made: Provenance) -> bool:
        """Whether a mask was made from the image as it is now, as far as is known."""
        now = self.store.image_stamp(image_id)
        return made.image_stamp == now or not made.image_stamp or not now

    def store_automatic(self, image_id: str, image: Image, prediction: Prediction, stamp: str = "") -> bool:
        """Save a prediction as the study's automatic mask; False where somebody else's label came first.

        Args:
            image_id, image, prediction: the study and what was predicted for it.
            stamp: the image's in the store, as it was before the image was read; nothing where that is not known.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"mask{MASK_SUFFIX}"
            write_label(path, prediction.mask, image)
            return self.store_result(image_id, path, result_params(prediction, self.labels.names), stamp)

    def store_result(
        self, image_id: str, path: Path, params: Mapping[str, Any], stamp: str, tag: str = AUTOMATIC
    ) -> bool:
        """Save a mask file that a task made; `params` is what a client was told about it.

        Returns:
            False where somebody else's label came first.

        Raises:
            ClientError: a tag for labels that people submit.
        """
        record = LabelRecord(provenance=replace(Provenance.from_json(params), image_stamp=stamp))
        if tag == AUTOMATIC:
            return self.store.save_automatic(image_id, path, record, self.models)
        self.store.save(image_id, path, tag, record)
        return True

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
        with tempfile.TemporaryDirectory() as folder:
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
        values = np.unique(label)
        values = values[values != 0].tolist()
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

    def remove_automatic(self) -> list[str]:
        """Remove the masks that this app made and nobody judged, and nothing else; returns the studies' ids."""
        return self.store.remove_automatic(self.models)

    def _predicted(self, image_id: str) -> float:
        """The lowest predicted Dice of a study's mask; below all others where there is none."""
        mask = self.store.label(image_id, AUTOMATIC)
        predicted = self.quality.lowest(mask.record.provenance) if mask else None
        return -1.0 if predicted is None else predicted

    def _needs(self, image_id: str, key_of: Callable[[str], str | None]) -> bool:
        try:
            records = self.store.records(image_id)
        except NotFound:  # removed meanwhile
            return False
        if FINAL in records:
            return False
        mask = records.get(AUTOMATIC)
        made = mask.made_by(self.models) if mask else None
        if made is None:  # a mask with this tag that somebody else put there is theirs: never overwritten
            return mask is None
        return made.fingerprint != key_of(image_id) or not self.is_of_image(image_id, made)

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
            prompts = said_prompts(label.record.prompts, image.array.shape)
            return Template(image_id, image, None, {}, prompts, _template_checksum(label))
        names = self._structures(image_id, label)
        return Template(image_id, image, read_label(label.path, image), names, checksum=_template_checksum(label))

    def _shown_by(self, image_id: str) -> StoredLabel | None:
        """What makes a study a template: its final label, else its prompts."""
        return self.store.label(image_id, FINAL) or self.store.label(image_id, PROMPTED)

    def _summary(self, image_id: str) -> Summary:
        label = self._shown_by(image_id)
        try:
            look = self.looks.of(image_id)
        except (ClientError, ImageError, OSError) as error:
            logger.warning("the template %s cannot be read: %s", image_id, error)
            return Summary((), np.zeros(0))
        return Summary(tuple(self._structures(image_id, label)) if label else (), look)

    def _choice(
        self, segmenter: Segmenter, image_id: str | None, look: np.ndarray, names: Iterable[str]
    ) -> dict[str, tuple[str, ...]]:
        """{structure: ids of its templates for a study that looks like this} of the structures that can be segmented.

        A model that takes no templates can segment its vocabulary, the others what a template shows.
        """
        able = segmenter.capabilities
        known = [name for name in names if able.vocabulary is None or name in able.vocabulary]
        if not able.most_templates:
            return dict.fromkeys(known, ())
        found = {name: self.bank.choose(look, name, self._most, without=image_id) for name in known}
        return {name: ids for name, ids in found.items() if ids}

    def _template_fingerprint(self, choice: Mapping[str, tuple[str, ...]]) -> str:
        return template_fingerprint(self.labels.names, choice, self.bank.records)


def result_params(prediction: Prediction, known: Mapping[str, int]) -> dict[str, Any]:
    """What a client is told about a mask.

    `label_names` names every index up to the largest that was asked for, in order, because Slicer gives the voxels
    with value n to the n-th name; `structures` holds only those that are there.

    Args:
        prediction: the mask.
        known: {structure: index} of the study list, for indices that were not asked for.
    """
    present = set(np.unique(prediction.mask).tolist())
    asked = {index: name for name, index in prediction.labels.items()}
    names = {index: name for name, index in known.items()} | asked
    in_order = {names.get(index, f"label_{index}"): index for index in range(1, max(asked, default=0) + 1)}
    return {
        "label_names": in_order,
        "structures": {name: index for index, name in sorted(asked.items()) if index in present},
        "quality": dict(prediction.quality),
        **{key: value for key, value in prediction.provenance.items() if key != "quality"},
    }


def _template_checksum(label: StoredLabel) -> str:
    naming = json.dumps(label.record.naming, sort_keys=True)
    return hashlib.sha256((label.checksum + naming).encode()).hexdigest()
