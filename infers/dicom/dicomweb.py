"""The study list of a DICOMweb server.

Images and final labels live on that server (labels as DICOM SEG); automatic masks, records and copies of images live
in a state folder that nobody takes for a cache. MONAI Label 0.8.5 remembers the server's lists for hours, so that a
saved label is not counted and the same study is offered again: here lists are remembered for a moment and forgotten
whenever a label is saved.

Longer than most because MONAI Label asks one object for all that a study list is.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from pydicom.errors import InvalidDicomError

from infers.dicom.connection import connect, listed_series
from infers.dicom.dicomseg import read_headers
from infers.dicom.pacs_labels import AS_STORED, PacsLabels, SegSeries, final_seg
from infers.errors import ClientError, NotFound, reason_of
from infers.guards import safe_name
from infers.label_records import AUTOMATIC, FINAL, LabelRecord, Statement
from infers.store.datastore import StoredLabel, StudyStore, is_still
from infers.store.dicom_files import NO_IMAGES
from infers.store.watch import keep_looking
from lib.imaging.dicom import arrange
from lib.imaging.files import temporary_folder
from lib.imaging.images import ImageError, read_image, read_label, write_image, write_label

logger = logging.getLogger(__name__)

COPY_SUFFIX = ".nii.gz"
LONGEST_WAIT = 600.0  # seconds between two tries to store a label on the server
LOOK_AGAIN = 10.0  # seconds between looks for what others stored on the server


class DICOMwebStore(DICOMWebDatastore, StudyStore):
    """Images of a DICOMweb server, ids are SeriesInstanceUIDs; see the module's text.

    Method resolution goes through MONAI Label's DICOMweb class, which talks to the server, to `StudyStore`, which
    keeps files and records: the locks of the latter are never held while the server is asked.
    """

    folders_are_series = False  # they are MONAI Label's copies of series, each beside the file it was made into

    def __init__(self, client: DICOMwebClientX, state: Path) -> None:
        self._remembered: dict[str, tuple[float, Any]] = {}
        self._memory_lock = threading.Lock()
        self._finals = threading.RLock()  # a person's label and an accepted one must not overtake each other
        self._fetching: dict[str, threading.Lock] = {}
        self._pacs_labels = PacsLabels(client)
        self._looking = False
        self._waits: dict[str, tuple[float, float]] = {}  # image id: seconds to wait, and until when; see `store_again`
        DICOMWebDatastore.__init__(
            self,
            client=client,
            search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
            cache_path=str(state),
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
            convert_to_nifti=settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI,
        )

    def list_images(self) -> list[str]:
        """Ids of the server's series that hold images."""
        return list(self._recall("images", self._search_images))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images for which the server, or the state folder, has a final label."""
        listed = self.list_images()
        there = self._segmentations()
        here = set(StudyStore.get_labeled_images(self))
        return [image_id for image_id in listed if image_id in here or image_id in there]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the other images, in the server's order."""
        labelled = set(self.get_labeled_images())
        return [image_id for image_id in self.list_images() if image_id not in labelled]

    def records(self, image_id: str) -> dict[str, LabelRecord]:
        """As `StudyStore.records`; an image that was never opened has none but what the server has."""
        records: dict[str, LabelRecord] = {}
        with suppress(NotFound):
            records = StudyStore.records(self, image_id)
        if FINAL not in records and image_id in self._segmentations():
            records[FINAL] = LabelRecord()
        return records

    @property
    def version(self) -> None:
        """What the server has changes without a word."""

    def overview(self) -> dict[str, Mapping[str, LabelRecord]]:
        """As `StudyStore.overview`."""
        return {image_id: self.records(image_id) for image_id in self.list_images()}

    def label(self, image_id: str, tag: str) -> StoredLabel | None:
        """As `StudyStore.label`; of a final label, one that is newer on the server is fetched first."""
        if tag == FINAL:
            self._fetch_newer(image_id)
        return StudyStore.label(self, image_id, tag)

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image in the state folder; fetched from the server when first asked for.

        Raises:
            ImageError: a series that is no image, or broken; it is fetched anew when it is asked for again.
            NotFound: it is no longer on the server.
        """
        folder = Path(self._datastore.image_path())
        with self._fetching.setdefault(image_id, threading.Lock()):
            if not self._convert_to_nifti:
                self._fetch_series(image_id, folder / image_id)
                return str(folder / image_id)
            kept = folder / f"{image_id}{COPY_SUFFIX}"
            if not kept.exists() or image_id not in self._datastore.objects:
                self._fetch_series(image_id, folder / image_id)
                self._add_copy(image_id, folder / image_id)
            return str(kept)

    def image_stamp(self, image_id: str) -> str:
        """Not known: a series is fetched whole, and the copy of it does not change."""
        return ""

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label by its image's id."""
        label = self.label(label_id, label_tag)
        return str(label.path) if label else ""

    def status(self) -> dict[str, Any]:
        """MONAI Label's counts."""
        with self._lock:
            labels = [set(obj.labels) for obj in self._datastore.objects.values()]
        tags = {tag: sum(tag in own for own in labels) for own in labels for tag in own}
        return {"total": len(self.list_images()), "completed": len(self.get_labeled_images()), "label_tags": tags}

    def save(self, image_id: str, label: Path, tag: str, record: LabelRecord) -> None:
        """As `StudyStore.save`; a final label also goes to the server as DICOM SEG.

        Where the server does not take it the label is kept here all the same, and its record says why.
        """
        safe_name("tag", tag)
        safe_name("image", image_id)
        self.get_image_uri(image_id)  # labels are only kept of images that are
        with self._finals if tag == FINAL else nullcontext():
            if tag == FINAL and not record.inferred:
                record = self._store_seg(image_id, label, record)
            StudyStore.save(self, image_id, label, tag, record)
        self.forget()

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """As `StudyStore.save_label`."""
        return StudyStore.save_label(self, image_id, label_filename, label_tag, label_info)

    def on_change(self, listener: Callable[[], None]) -> None:
        """As `StudyStore.on_change`; what others store on the server is noticed too."""
        StudyStore.on_change(self, listener)
        if not self._looking:
            self._looking = True
            looking = (self._contents, self._notify, LOOK_AGAIN)
            threading.Thread(target=keep_looking, args=looking, name="dicomweb-watch", daemon=True).start()

    def forget(self) -> None:
        """Ask the server anew the next time: something was stored there."""
        with self._memory_lock:
            self._remembered.clear()

    def promote(self, masks: Mapping[str, tuple[str, LabelRecord]]) -> set[str]:
        """As `StudyStore.promote`; each label also goes to the server."""
        done = set()
        for image_id, (seen, record) in masks.items():
            with self._finals:
                mask = StudyStore.label(self, image_id, AUTOMATIC)
                if mask and mask.checksum == seen and FINAL not in self.records(image_id):
                    self.save(image_id, mask.path, FINAL, record)
                    done.add(image_id)
        return done

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Each change goes to the index by itself: no lock is held while the server is asked."""
        yield

    def save_accepted(self, image_id: str, label: Path, record: LabelRecord, over: StoredLabel | None) -> bool:
        """As `StudyStore.save_accepted`; the label also goes to the server, unless it has a newer one by now."""
        with self._finals:
            self.forget()
            if not is_still(over, self.label(image_id, FINAL)):
                return False
            self.save(image_id, label, FINAL, record)
            return True

    def withdraw(self, image_id: str) -> bool:
        """Refused: the label is on the server, and DICOMweb cannot remove anything. Raises ClientError."""
        raise ClientError(
            "an accepted label of a DICOMweb study list was sent to that server as DICOM SEG and cannot be taken back "
            "from here: stop using it as a template, or submit a corrected label",
            409,
        )

    @property
    def on_dicomweb(self) -> bool:
        """They do."""
        return True

    def problems(self) -> dict[str, str]:
        """{image id: why a segmentation of it on the server is not its final label, or its final label not there}."""
        return {**self._pacs_labels.left_out, **{
            image_id: f"its final label is only here and not on the DICOMweb server, which is tried again: {reason}"
            for image_id, reason in self._only_here().items()
        }}  # fmt: skip

    def store_again(self) -> set[str]:
        """Send the final labels to the server that it did not take; returns those that it took now.

        Each failure doubles the wait before the next try. A label whose series allows no DICOM SEG is tried again in
        another process only: nothing else would change that.
        """
        done = set()
        for image_id in self._only_here():
            wait, due = self._waits.get(image_id, (LOOK_AGAIN, 0.0))
            if time.monotonic() < due:
                continue
            with self._finals:
                label = StudyStore.label(self, image_id, FINAL)
                if label is None or label.record.dicom_seg_problem is None:
                    continue
                try:
                    sent = self._sent(image_id, label.path, label.record)
                except requests.RequestException:
                    self._waits[image_id] = (min(2 * wait, LONGEST_WAIT), time.monotonic() + wait)
                    continue
                except ImageError:
                    self._waits[image_id] = (wait, math.inf)
                    continue
                StudyStore.amend(self, image_id, FINAL, functools.partial(_instead, sent))
            self._waits.pop(image_id, None)
            done.add(image_id)
            logger.info("the final label of %s is on the DICOMweb server now", image_id)
        return done

    def _only_here(self) -> dict[str, str]:
        """{image id: why} of the final labels that the server did not take."""
        with self._lock:
            finals = {id: obj.labels[FINAL].info for id, obj in self._datastore.objects.items() if FINAL in obj.labels}
        problems = {id: LabelRecord.from_json(info).dicom_seg_problem for id, info in finals.items()}
        return {id: problem for id, problem in problems.items() if problem}

    def study_uid(self, image_id: str) -> str:
        """StudyInstanceUID of a series, as viewers ask for it. Raises NotFound."""
        known = self._datastore.objects.get(image_id)
        info = known.image.info if known else {}
        uid = info.get("StudyInstanceUID") or self._dicom_info(image_id)["StudyInstanceUID"]
        if uid == "UNK":
            raise NotFound(f"the DICOMweb server does not say which study the series {image_id!r} belongs to")
        return str(uid)

    def _fetch_series(self, image_id: str, folder: Path) -> None:
        """Copy a series' instances into a folder, all or none."""
        if folder.exists() and any(folder.iterdir()):
            return
        study = self._dicom_info(image_id)["StudyInstanceUID"]
        # Beside the folder that MONAI Label watches: a watcher trips over folders that move within it
        with tempfile.TemporaryDirectory(dir=folder.parent.parent, prefix=".fetching-") as parts:
            try:
                if self._fetch_by_frame:
                    dicom_web_download_series(study, image_id, parts, self._client, True)
                else:
                    instances = self._client.retrieve_series(study, image_id, media_types=AS_STORED)
                    for number, instance in enumerate(instances, start=1):
                        instance.save_as(Path(parts) / f"{number:05d}.dcm")
            except (InvalidDicomError, EOFError) as error:
                raise ImageError(
                    f"series {image_id}: the DICOMweb server sends an instance that cannot be read ({error}): store "
                    "the series there again"
                ) from error
            if not any(Path(parts).iterdir()):
                raise ImageError(f"series {image_id} is empty on the DICOMweb server: store its images there")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(parts, folder)
            os.mkdir(parts)  # for the context to remove

    def _add_copy(self, image_id: str, folder: Path) -> None:
        """Make the one file that clients open of a series' instances, and take it into the list."""
        try:
            image, note = read_image(folder), arrange(read_headers(folder)).note
        except ImageError as error:
            shutil.rmtree(folder)  # what is sent again is looked at again
            raise ImageError(f"series {image_id}: {error}") from None
        with temporary_folder() as there:
            path = Path(there) / f"image{COPY_SUFFIX}"
            write_image(path, image)
            StudyStore.add_image(
                self, image_id, str(path), {**self._dicom_info(image_id), **({"note": note} if note else {})}
            )

    def _dicom_info(self, series_id: str) -> dict[str, Any]:
        try:
            return dict(DICOMWebDatastore._dicom_info(self, series_id))
        except IndexError:
            raise NotFound(
                f"series {series_id!r} is no longer on the DICOMweb server: ask for the list again"
            ) from None

    def _search_images(self) -> list[str]:
        answers = self._client.search_for_series(search_filters=self._search_filter)
        return [series.uid for series in listed_series(answers) if series.modality not in NO_IMAGES]

    def _download_labeled_data(self) -> None:
        for image_id in self.get_labeled_images():
            self.label(image_id, FINAL)

    def _segmentations(self) -> dict[str, list[SegSeries]]:
        return self._recall("segmentations", lambda: self._pacs_labels.of(self.list_images()))

    def _fetch_newer(self, image_id: str) -> None:
        """Take over the newest of the server's segmentations of an image, unless the label that is here is newer."""
        segs = self._segmentations().get(image_id, [])
        if not segs or self._has_seen(image_id, segs[-1]):
            return
        with self._finals:
            if self._has_seen(image_id, segs[-1]):
                return  # somebody else took it over meanwhile
            try:
                image = read_image(self.get_image_uri(image_id))
            except ImageError as error:
                self._pacs_labels.leave_out(segs[-1], str(error))
                self.forget()
                return
            label_and_names = self._pacs_labels.fetch(segs[-1], image, read_headers(self._series_folder(image_id)))
            if label_and_names is None:
                self.forget()
                return
            label, names = label_and_names
            with temporary_folder() as folder:
                path = Path(folder) / "label.nii.gz"
                write_label(path, label, image)
                statement = Statement(label_names=names, client_id="DICOMweb")
                record = LabelRecord(statement, dicom_seg_seen=tuple(seg.uid for seg in segs))
                StudyStore.save(self, image_id, path, FINAL, record)

    def _series_folder(self, image_id: str) -> Path:
        return Path(self._datastore.image_path()) / image_id

    def _has_seen(self, image_id: str, seg: SegSeries) -> bool:
        here = StudyStore.label(self, image_id, FINAL)
        return here is not None and seg.uid in here.record.dicom_seg_seen

    def _store_seg(self, image_id: str, path: Path, record: LabelRecord) -> LabelRecord:
        """Store a final label on the server; the label's record with what became of that."""
        try:
            return self._sent(image_id, path, record)
        except (ImageError, requests.RequestException) as error:
            reason = reason_of(error)
            logger.error("the final label of %s is only here and not on the DICOMweb server: %s", image_id, reason)
            self._waits.pop(image_id, None)
            return replace(record, dicom_seg_seen=self._seen(image_id), dicom_seg_problem=reason)

    def _sent(self, image_id: str, path: Path, record: LabelRecord) -> LabelRecord:
        """As `_store_seg`. Raises ImageError, requests.RequestException."""
        seen = self._seen(image_id)
        image = read_image(self.get_image_uri(image_id))
        series = read_headers(self._series_folder(image_id))
        automatic = StudyStore.label(self, image_id, AUTOMATIC)
        seg = final_seg(series, image, read_label(path, image), record, automatic)
        self._pacs_labels.store(seg)
        return replace(record, dicom_seg_seen=(*seen, str(seg.SeriesInstanceUID)), dicom_seg_problem=None)

    def _seen(self, image_id: str) -> tuple[str, ...]:
        """The server's segmentations of an image; what is known of them where it cannot be asked."""
        try:
            return tuple(seg.uid for seg in self._pacs_labels.search().get(image_id, []))
        except requests.RequestException:
            here = StudyStore.label(self, image_id, FINAL)
            return here.record.dicom_seg_seen if here else ()

    def _contents(self) -> Any:
        """What the listeners are told of where it is other than before; labels that wait for the server go first."""
        if self.store_again():
            self.forget()
        return self.list_images(), {image: segs[-1].uid for image, segs in self._segmentations().items()}

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def _recall(self, what: str, query: Callable[[], Any]) -> Any:
        with self._memory_lock:
            known = self._remembered.get(what)
        if known and time.monotonic() - known[0] < settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY:
            return known[1]
        answer = query()
        with self._memory_lock:
            self._remembered[what] = (time.monotonic(), answer)
        return answer


def _instead(record: LabelRecord, former: LabelRecord) -> LabelRecord:
    return record


def open_dicomweb(url: str, state: Path) -> DICOMwebStore:
    """Connect to a DICOMweb server with MONAI Label's settings for user, password and URL prefixes.

    Nothing is asked yet: a server that is away when this one starts is used when it is there.
    """
    return DICOMwebStore(connect(url), state)
