"""The study list: images, DICOM series, labels and what is recorded about them, in one folder.

Files are the truth: images, labels, and a sidecar beside each label (`infers/store/sidecars.py`). MONAI Label's own
`datastore_v2.json` is an index that is kept up to date for the clients that read it, and rebuilt where it is missing
or broken. Every file is written whole or not at all. Ids and tags are names, never paths.
"""

from __future__ import annotations

import logging
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from infers.environment import IMAGE_EXTENSIONS
from infers.errors import ClientError, NotFound
from infers.guards import safe_name
from infers.label_records import AUTOMATIC, FINAL, FORMER, WITHDRAWN, LabelRecord
from infers.store.sidecars import checksum, read_sidecar, write_sidecar
from infers.store.study_files import StudyFiles
from lib.imaging.detached import companions
from lib.imaging.files import set_aside, temporary_prefix
from lib.imaging.formats import DETACHED
from lib.imaging.images import read_image
from lib.plain_json import plain_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredLabel:
    """A label: its file, what is recorded about it, and the checksum of its bytes."""

    path: Path
    record: LabelRecord
    checksum: str


class StudyStore(StudyFiles):
    """Images and labels of one study folder: what may be done to them, whole or not at all."""

    # What others call

    def label(self, image_id: str, tag: str) -> StoredLabel | None:
        """The label of an image with this tag, or None. Its checksum is of the file as it is now."""
        with self._lock:
            if (label := self._datastore.label(image_id, tag)) is None:
                return None
            path = Path(LocalDatastore.get_label_uri(self, image_id, tag))
            try:
                return StoredLabel(path, self._known.of(image_id, tag, label.info), checksum(path))
            except FileNotFoundError:
                return None

    def records(self, image_id: str) -> dict[str, LabelRecord]:
        """{tag: what is recorded} of an image's labels. Raises NotFound."""
        with self._lock:
            return {tag: self._known.of(image_id, tag, label.info) for tag, label in self._tags(image_id).items()}

    def all_records(self) -> list[Mapping[str, LabelRecord]]:
        """The same for every image that the index knows."""
        return list(StudyFiles.overview(self).values())

    def save_automatic(self, image_id: str, label: Path, record: LabelRecord, models: Collection[str]) -> bool:
        """Store a mask that a model made, with the tag `original`; never over a label that anybody else made.

        Args:
            image_id, label, record: whose it is, its file and its record.
            models: names of the models whose masks it may replace.

        Returns:
            False where a person saved a final label for the image in the meantime, or somebody else a mask.

        Raises:
            NotFound: the image was removed in the meantime.
        """
        with self._exclusive():
            if self._tags(image_id).get(FINAL):
                return False
            former = self._info_now(image_id, AUTOMATIC)
            if former is not None and LabelRecord.from_json(former).made_by(models) is None:
                self.refresh()  # else the list would go on saying that there is none, or one of ours
                return False
            self._write(image_id, label, AUTOMATIC, record)
            self._write_soon(AUTOMATIC)
            return True

    def promote(self, masks: Mapping[str, tuple[str, LabelRecord]]) -> set[str]:
        """Make automatic masks final labels too; never where a person's label is.

        Args:
            masks: {image id: (checksum of the mask that was looked at, what to record about the final label)}.

        Returns:
            The images for which that was done; for the others the mask or the final label changed in the meantime.
        """
        done = set()
        with self._exclusive():
            for image_id, (seen, record) in masks.items():
                mask = self.label(image_id, AUTOMATIC)
                if mask and mask.checksum == seen and self.label(image_id, FINAL) is None:
                    self._write(image_id, mask.path, FINAL, record)
                    done.add(image_id)
            self._update_datastore_file(lock=False)
        return done

    def save_accepted(self, image_id: str, label: Path, record: LabelRecord, over: StoredLabel | None) -> bool:
        """Store an accepted result as the final label; never over a label that a person submitted.

        Args:
            image_id, label, record: whose it is, its file and its record.
            over: the final label that it was made from, which it replaces; None where there was none.

        Returns:
            False where the final label is another one by now.

        Raises:
            NotFound: the image was removed in the meantime.
        """
        with self._exclusive():
            if not is_still(over, StudyStore.label(self, image_id, FINAL)):
                return False
            self._store(image_id, label, FINAL, record)
            return True

    @property
    def on_dicomweb(self) -> bool:
        """Whether the images lie on a DICOMweb server."""
        return False

    def forget(self) -> None:
        """Read the list anew the next time; a folder's is always as the files are."""

    def study_uid(self, image_id: str) -> str:
        """StudyInstanceUID of a study, as OHIF asks for it. Raises NotFound."""
        raise NotFound("OHIF opens studies of a DICOMweb server only, and this study list is a folder")

    def problems(self) -> dict[str, str]:
        """{image id: what is wrong with its labels elsewhere}; there is no elsewhere here."""
        return {}

    def withdraw(self, image_id: str) -> bool:
        """Take a final label back that was accepted; False where there is none or a person submitted it.

        It is kept with the tag `withdrawn` unless it is the automatic mask, which stays.
        """
        with self._exclusive():
            final = self.label(image_id, FINAL)
            if final is None or final.record.submitted:
                return False
            mask = self.label(image_id, AUTOMATIC)
            if mask is None or mask.checksum != final.checksum:
                self._write(image_id, final.path, WITHDRAWN, final.record)
            self._unlink(image_id, FINAL)
            del self._tags(image_id)[FINAL]
            self._update_datastore_file(lock=False)
            return True

    def save(self, image_id: str, label: Path, tag: str, record: LabelRecord) -> None:
        """Store a label that somebody made elsewhere, whole or not at all.

        Raises:
            ClientError: unusable id or tag, unknown image, an automatic mask meant as a person's final label.
        """
        safe_name("tag", tag)
        if tag == FINAL and record.inferred:
            raise ClientError("label_tag `final` is for what a person submits; save inferred masks as `original`")
        with self._exclusive():
            if tag == FINAL:
                self._keep_former(image_id, label, record)
            self._store(image_id, label, tag, record)

    def amend(self, image_id: str, tag: str, change: Callable[[LabelRecord], LabelRecord]) -> None:
        """Change what is recorded about a label. Raises NotFound."""
        with self._exclusive():
            label = self._tags(image_id).get(tag)
            if label is None:
                raise NotFound(f"there is no label {tag!r} of image {image_id!r}")
            file = Path(LocalDatastore.get_label_uri(self, image_id, tag))
            sidecar = self._sidecar(image_id, tag)
            known = read_sidecar(sidecar, file)
            changed = change(LabelRecord.from_json(label.info if known is None else known))
            label.info = plain_json(changed.to_json())
            write_sidecar(sidecar, file.read_bytes(), label.info, self.write)
            self._update_datastore_file(lock=False)

    # MONAI Label's interface, with records as JSON

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """As `save`; returns the label's id, which is the image's."""
        self.save(image_id, Path(label_filename), label_tag, LabelRecord.from_json(label_info or {}))
        return image_id

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an uploaded image after reading it once.

        Raises:
            ClientError: unusable id or file type, or another image of that id.
            ImageError: a file that is no usable image.
        """
        source = Path(image_filename)
        stem, extension = self._to_id(source.name)
        image_id = safe_name("image", image_id or stem)
        if extension not in IMAGE_EXTENSIONS:
            raise ClientError(f"an image must be one of {', '.join(IMAGE_EXTENSIONS)}, got {source.suffix!r}")
        if extension.lower() in DETACHED:
            raise ClientError(f"{extension} is a header whose voxels lie in another file: save the image as one file")
        new = read_image(source)
        with self._exclusive():
            if image_id in self._datastore.objects:
                if read_image(self.get_image_uri(image_id)).checksum == new.checksum:
                    return image_id
                raise ClientError(f"image {image_id!r} exists with other content: upload under another name", 409)
            name = self._filename(image_id, extension)
            self.write(Path(self._datastore.image_path()) / name, source.read_bytes())
            info = plain_json({**(image_info or {}), "ts": _now(), "name": name})
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
            self._update_datastore_file(lock=False)
            self._reconcile_datastore()  # labels of an image that was here before
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image with its labels and their records. Raises NotFound, ClientError where a link leads to it."""
        with self._exclusive():
            self._refuse_behind_links(image_id)
            for tag in list(self._tags(image_id)):
                self.remove_label(image_id, tag)
            if series := self._series.get(image_id):
                series.remove()
            else:
                path = Path(self.get_image_uri(image_id))
                parts = companions(path) if path.name.lower().endswith(DETACHED) else []
                for file in (path, *parts):
                    file.unlink(missing_ok=True)
            self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label and its record. Raises NotFound."""
        with self._exclusive():
            if not self._tags(label_id).get(label_tag):
                raise NotFound(f"there is no label {label_tag!r} of image {label_id!r}")
            self._unlink(label_id, label_tag)
            self.refresh()

    def set_aside(self, image_id: str, tag: str) -> None:
        """Take a label that nobody can read out of the list; its file stays, as `NAME.broken`. Raises NotFound."""
        with self._exclusive():
            if not self._tags(image_id).get(tag):
                raise NotFound(f"there is no label {tag!r} of image {image_id!r}")
            path = Path(LocalDatastore.get_label_uri(self, image_id, tag))
            set_aside(path, "a person asked for the mask anew")
            self._unlink(image_id, tag)
            self.refresh()

    def remove_automatic(self, models: Collection[str]) -> list[str]:
        """Remove the masks of these models, of images without a final label; returns the images' ids.

        What lies beside a final label stays: it tells how good the mask was that a person corrected or accepted.
        """
        with self._exclusive():
            self.refresh()  # a mask that somebody just put there is not judged by the record of the one before
            objects = self._datastore.objects.items()
            masks = ((image_id, obj.labels.get(AUTOMATIC)) for image_id, obj in objects if not obj.labels.get(FINAL))
            fitting = [id for id, mask in masks if mask and LabelRecord.from_json(mask.info).made_by(models)]
            for image_id in fitting:
                self._unlink(image_id, AUTOMATIC)
            self.refresh()
        return fitting

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is recorded about a label. Raises NotFound."""
        self.amend(label_id, label_tag, lambda record: LabelRecord.from_json({**record.to_json(), **info}))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A temporary zip of the labelled images, their labels and the index. Raises NotFound where there are none."""
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise NotFound("there is no final label yet: save one study first")
        with tempfile.NamedTemporaryFile(prefix=temporary_prefix(), suffix=".zip", delete=False) as target:
            with zipfile.ZipFile(target, "w") as archive:
                for kind, name in ((kind, pair[kind]) for pair in pairs for kind in ("image", "label")):
                    path = Path(name)
                    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                        archive.write(file, Path(kind) / file.relative_to(path.parent))
                archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))
        return target.name

    # Own helpers

    def _keep_former(self, image_id: str, source: Path, record: LabelRecord) -> None:
        """Keep the label that is about to be replaced, where another person submitted it."""
        former = StudyStore.label(self, image_id, FINAL)
        if former is None or not former.record.submitted or former.checksum == checksum(source):
            return
        if _whose(former.record) != _whose(record):
            self._write(image_id, former.path, FORMER, former.record)

    def _unlink(self, image_id: str, tag: str) -> None:
        path = Path(LocalDatastore.get_label_uri(self, image_id, tag))
        path.unlink(missing_ok=True)
        self._left(path)
        self._sidecar(image_id, tag).unlink(missing_ok=True)

    def _store(self, image_id: str, source: Path, tag: str, record: LabelRecord) -> None:
        self._write(image_id, source, tag, record)
        self._update_datastore_file(lock=False)

    def _write(self, image_id: str, source: Path, tag: str, record: LabelRecord) -> None:
        labels = self._tags(image_id)
        _, extension = self._to_id(source.name)
        name = self._filename(image_id, extension)
        folder = Path(self._datastore.label_path(tag))
        former = labels.get(tag)
        info = plain_json(replace(record, saved=_now(), file=name).to_json())
        content = source.read_bytes()
        write_sidecar(self._sidecar(image_id, tag), content, info, self.write)
        self.write(folder / name, content)
        self._left(folder / name)
        if former and former.ext != extension:
            (folder / self._filename(image_id, former.ext)).unlink(missing_ok=True)
        labels[tag] = DataModel(info=info, ext=extension)


def is_still(seen: StoredLabel | None, now: StoredLabel | None) -> bool:
    """Whether an accepted label, or that there was none, is as it was seen."""
    if seen is None or now is None:
        return seen is now
    return not now.record.submitted and seen.checksum == now.checksum


def _whose(record: LabelRecord) -> tuple[Any, Any]:
    return record.author, record.statement.client_id


def _now() -> int:
    return int(time.time())
