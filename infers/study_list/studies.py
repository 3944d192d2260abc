"""A study list as the models see it: what each study still needs, and how it is segmented.

Nothing is kept here but caches. What is to be done follows from the masks' own records: a mask is up to date while the
fingerprint in its record is the one that it would get today. That speaks of the templates that the bank chooses for
this study, so a new template concerns only the studies that it is chosen for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, LabelRecord, Provenance
from infers.names import LabelMap
from infers.store.datastore import StoredLabel
from infers.study_list.descriptors import Descriptors
from infers.study_list.labelled_studies import MASK_SUFFIX, LabelledStudies
from infers.study_list.predicted_quality import PredictedQuality
from infers.study_list.store import Store
from lib.imaging.files import temporary_folder
from lib.imaging.image_cache import ImageCache
from lib.imaging.images import Image, write_label
from lib.inference.control import Control
from lib.inference.templates import LOADED, study_descriptor
from lib.segmenters import registry
from lib.segmenters.contract import Prediction, Segment, Segmenter
from lib.segmenters.fingerprints import digest, mask_fingerprint, template_fingerprint

MODEL = "oneprompt"  # name in the records of masks that this app made
LIST_UNET = "oneprompt_specialist"  # name of its model and trainer
MODELS = frozenset(registry.MODELS)  # whose masks this app may replace and remove


class Studies(LabelledStudies):
    """The studies of one datastore with their labels and masks.

    Args:
        store: the datastore.
        labels: names and indices of the structures.
        segmenter: gives the model that segments the list, with its current weights.
        most_templates: how many templates one study is segmented with; None: as many as `segmenter` asks.
        descriptors: what the studies look like.
        refreshed: masks are made again by themselves; until then those of older weights answer.
        by_templates: gives the model for what templates alone say, where `segmenter` has learnt from the list's own
            labels; by default the same.
        models: names of the models whose masks are this app's own: only those are replaced or removed.
        images: those that were read lately.
        room: bytes of templates that are kept in memory.
    """

    def __init__(
        self,
        store: Store,
        labels: LabelMap,
        segmenter: Callable[[], Segmenter],
        most_templates: int | None,
        descriptors: Descriptors,
        refreshed: bool = True,
        by_templates: Callable[[], Segmenter] | None = None,
        models: Collection[str] = MODELS,
        images: ImageCache | None = None,
        room: int = LOADED,
    ) -> None:
        super().__init__(store, labels, descriptors, models, images, room)
        self._segmenter, self._by_templates = segmenter, by_templates or segmenter
        self._most, self._refreshed = most_templates, refreshed
        self.quality = PredictedQuality()
        self._fingerprints: tuple[str, dict[str, str]] = ("", {})  # what they depend on, {image id: mask fingerprint}

    def state(self) -> str:
        """Changes with the templates, the weights and the structures' indices: some masks may be out of date then."""
        return self._state(self._segmenter())

    def _state(self, segmenter: Segmenter) -> str:
        return digest([self.templates(), segmenter.fingerprint, self.labels.names, self._template_count(segmenter)])

    def fingerprints(self) -> Callable[[str], str | None]:
        """A function from a study to the fingerprint of the mask that it would get now; None without a descriptor."""
        segmenter = self._segmenter()
        state = self._state(segmenter)
        with self._lock:
            if self._fingerprints[0] != state:
                self._fingerprints = (state, {})
            known = self._fingerprints[1]

        def fingerprint_of(image_id: str) -> str | None:
            if image_id not in known and (descriptor := self.descriptors.get(image_id)) is not None:
                choice = self._choice(segmenter, image_id, descriptor, self.labels.names)
                known[image_id] = mask_fingerprint(self._template_fingerprint(choice), segmenter.fingerprint)
            return known.get(image_id)

        return fingerprint_of

    def fingerprint_now(self, image_id: str, image: Image) -> str:
        """The fingerprint of the mask that a study would get now."""
        self.descriptors.of(image_id, image)
        return self.fingerprints()(image_id) or ""

    def pending(self) -> list[str]:
        """Ids of studies whose mask is missing, in the list's order, then of those whose mask may be out of date, worst
        predicted first."""
        fingerprint_of = self.fingerprints()
        if not self.bank.ids and self._segmenter().capabilities.most_templates:
            return []
        overview = self.store.overview()
        outdated = [id for id, records in overview.items() if self._is_outdated(id, records, fingerprint_of)]
        return sorted(outdated, key=lambda id: self._predicted(overview[id]))

    def is_pending(self, image_id: str) -> bool:
        """Whether a study is among those (still)."""
        try:
            records = self.store.records(image_id)
        except NotFound:  # removed meanwhile
            return False
        return self._is_outdated(image_id, records, self.fingerprints())

    def count_without_final(self) -> int:
        """How many studies no person has labelled."""
        return len(self.store.list_images()) - len(self.store.get_labeled_images())

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
        if made.fingerprint == self.fingerprint_now(image_id, image):
            return mask
        if older_weights and self._refreshed:
            choice = self._choice(self._segmenter(), image_id, self.descriptors.of(image_id, image), self.labels.names)
            return mask if made.template_fingerprint == self._template_fingerprint(choice) else None
        return None

    def segment(
        self,
        image_id: str | None,
        image: Image,
        only: Mapping[str, int] | None = None,
        control: Control = Control(),
        model: Segmenter | None = None,
        by_templates_alone: bool = False,
        engine: Callable[[Segmenter], Segment] = lambda segmenter: segmenter.segment,
    ) -> Prediction:
        """Segment an image: by the bank's templates, or by what the model knows.

        Args:
            image_id: the study, so that it is not its own template while there are others; None for an upload.
            image: the image itself.
            only: structures wanted, {name: index}; None for all that have a template.
            control: follows the work and may end it.
            model: to ask in place of the list's.
            by_templates_alone: leave out a model that has learnt from the list's own labels.
            engine: gives what segments in the model's place.

        Raises:
            ClientError: no template has any of the structures.
        """
        self.templates()
        wanted = dict(self.labels.names if only is None else only)
        descriptor = self.descriptors.of(image_id, image) if image_id else study_descriptor(image)
        # once: it may change meanwhile
        segmenter = model or (self._by_templates if by_templates_alone else self._segmenter)()
        choice = self._choice(segmenter, image_id, descriptor, wanted)
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
        prediction = engine(segmenter)(image, list(chosen.values()), labels, control=control)
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
        with temporary_folder() as folder:
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

    def remove_automatic(self) -> list[str]:
        """Remove the masks that this app made and nobody judged, and nothing else; returns the studies' ids."""
        return self.store.remove_automatic(self.models)

    def _predicted(self, records: Mapping[str, LabelRecord]) -> float:
        """The lowest predicted Dice of a study's mask; below all others where there is none."""
        mask = records.get(AUTOMATIC)
        predicted = self.quality.lowest(mask.provenance) if mask else None
        return -1.0 if predicted is None else predicted

    def _is_outdated(
        self, image_id: str, records: Mapping[str, LabelRecord], fingerprint_of: Callable[[str], str | None]
    ) -> bool:
        if FINAL in records:
            return False
        mask = records.get(AUTOMATIC)
        made = mask.made_by(self.models) if mask else None
        if made is None:  # a mask with this tag that somebody else put there is theirs: never overwritten
            return mask is None
        return made.fingerprint != fingerprint_of(image_id) or not self.is_of_image(image_id, made)

    def _choice(
        self, segmenter: Segmenter, image_id: str | None, descriptor: np.ndarray, names: Iterable[str]
    ) -> dict[str, tuple[str, ...]]:
        """{structure: ids of its templates for a study that looks like this} of the structures that can be segmented.

        A model that takes no templates can segment its vocabulary, the others what a template shows.
        """
        able = segmenter.capabilities
        known = [name for name in names if able.vocabulary is None or name in able.vocabulary]
        if not able.most_templates:
            return dict.fromkeys(known, ())
        most = self._template_count(segmenter)
        chosen = {name: self.bank.choose(descriptor, name, most, without=image_id) for name in known}
        return {name: ids for name, ids in chosen.items() if ids}

    def _template_count(self, segmenter: Segmenter) -> int:
        """How many templates a study is segmented with, at most."""
        return self._most or segmenter.capabilities.usual_templates

    def _template_fingerprint(self, choice: Mapping[str, tuple[str, ...]]) -> str:
        return template_fingerprint(self.labels.names, choice, self.bank.records)


def result_params(prediction: Prediction, known: Mapping[str, int]) -> dict[str, Any]:
    """What a client is told about a mask.

    `label_names` names every index up to the largest that was wanted, in order, because Slicer gives the voxels
    with value n to the n-th name; `structures` holds only those that are there.

    Args:
        prediction: the mask.
        known: {structure: index} of the study list, for indices that were not wanted.
    """
    wanted = {index: name for name, index in prediction.labels.items()}
    names = {index: name for name, index in known.items()} | wanted
    in_order = {names.get(index, f"label_{index}"): index for index in range(1, max(wanted, default=0) + 1)}
    return {
        "label_names": in_order,
        "structures": {name: index for index, name in sorted(wanted.items()) if name in prediction.boxes},
        "quality": dict(prediction.quality),
        **{key: value for key, value in prediction.provenance.items() if key != "quality"},
    }
