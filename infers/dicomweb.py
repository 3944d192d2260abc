"""The study list of a DICOMweb server.

Images and final labels live on that server (labels as DICOM SEG); automatic masks, records and copies of images live
in a state folder that nobody takes for a cache. MONAI Label 0.8.5 remembers the server's lists for hours, so that a
saved label is not counted and the same study is offered again: here lists are remembered for a moment and forgotten
whenever a label is saved.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from pydicom.dataset import Dataset

from infers.datastore import AUTOMATIC, FINAL, LabelRecord, StudyStore
from infers.errors import ClientError, NotFound
from infers.guards import safe_name
from infers.series import NO_IMAGES

logger = logging.getLogger(__name__)


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
        self._referred: dict[str, str] = {}  # SEG series: image series; what was stored does not change
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
        return list(self._recall("images", self._ask_images))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images for which the server, or the state folder, has a final label."""
        listed = set(self.list_images())
        here = [image_id for image_id in LocalDatastore.get_labeled_images(self) if image_id in listed]
        there = [image_id for image_id in self._recall("labelled", self._ask_labelled) if image_id in listed]
        return list(dict.fromkeys([*here, *there]))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the other images, in the server's order."""
        labelled = set(self.get_labeled_images())
        return [image_id for image_id in self.list_images() if image_id not in labelled]

    def tags(self, image_id: str) -> dict[str, dict[str, Any]]:
        """{tag: info} of an image's labels; an image that was never opened has none but what the server has."""
        obj = self._datastore.objects.get(image_id)
        found = {tag: dict(label.info) for tag, label in obj.labels.items()} if obj else {}
        if FINAL not in found and image_id in self.get_labeled_images():
            found[FINAL] = {}
        return found

    def record(self, image_id: str, tag: str) -> LabelRecord | None:
        """As `StudyStore.record`; a final label that only the server has is fetched first."""
        if tag == FINAL and StudyStore.record(self, image_id, tag) is None and image_id in self.get_labeled_images():
            self._download_labeled_data()
        return StudyStore.record(self, image_id, tag)

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image in the state folder; fetched from the server when first asked for.

        MONAI Label answers the first time with a temporary copy that it forgets.
        """
        with self._fetching.setdefault(image_id, threading.Lock()):
            uri = str(DICOMWebDatastore.get_image_uri(self, image_id))
            kept = Path(self._datastore.image_path()) / Path(uri).name
            if not self._convert_to_nifti or Path(uri).resolve() == kept.resolve():
                return uri
            Path(uri).unlink(missing_ok=True)
            return str(StudyStore.get_image_uri(self, image_id))

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label by its image's id; MONAI Label also fetches a final one by its own series id."""
        here = StudyStore.get_label_uri(self, label_id, label_tag)
        return here or DICOMWebDatastore.get_label_uri(self, label_id, label_tag, image_id)

    def status(self) -> dict[str, Any]:
        """MONAI Label's counts."""
        labels = [obj.labels for obj in list(self._datastore.objects.values())]
        tags = {tag: sum(tag in own for own in labels) for own in labels for tag in own}
        return {"total": len(self.list_images()), "completed": len(self.get_labeled_images()), "label_tags": tags}

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """As `StudyStore.save_label`; a final label also goes to the server as DICOM SEG."""
        safe_name("tag", label_tag)
        safe_name("image", image_id)
        with self._finals if label_tag == FINAL else nullcontext():
            saved = str(DICOMWebDatastore.save_label(self, image_id, label_filename, label_tag, label_info, label_id))
        self.forget()
        return saved

    def forget(self) -> None:
        """Ask the server anew the next time: something was stored there."""
        with self._memory_lock:
            self._remembered.clear()

    def promote(self, masks: Mapping[str, tuple[str, dict[str, Any]]]) -> set[str]:
        """As `StudyStore.promote`; each label also goes to the server."""
        done = set()
        for image_id, (seen, info) in masks.items():
            with self._finals:
                mask = StudyStore.record(self, image_id, AUTOMATIC)
                if mask and mask.checksum == seen and FINAL not in self.tags(image_id):
                    self.save_label(image_id, str(mask.path), FINAL, info)
                    done.add(image_id)
        return done

    def withdraw(self, image_id: str) -> bool:
        """Refused: the label is on the server, and DICOMweb cannot remove anything. Raises ClientError."""
        raise ClientError(
            "an accepted label of a DICOMweb study list was sent to that server as DICOM SEG and cannot be taken back "
            "from here: stop using it as a template, or submit a corrected label",
            409,
        )

    def study_uid(self, image_id: str) -> str:
        """StudyInstanceUID of a series, as viewers ask for it. Raises NotFound."""
        known = self._datastore.objects.get(image_id)
        info = known.image.info if known else {}
        uid = info.get("StudyInstanceUID") or self._dicom_info(image_id)["StudyInstanceUID"]
        if uid == "UNK":
            raise NotFound(f"the DICOMweb server does not say which study the series {image_id!r} belongs to")
        return str(uid)

    def _ask_images(self) -> list[str]:
        found = map(Dataset.from_json, self._client.search_for_series(search_filters=self._search_filter))
        return [str(series.SeriesInstanceUID) for series in found if str(series.get("Modality", "")) not in NO_IMAGES]

    def _ask_labelled(self) -> list[str]:
        """Ids of the series that the server's segmentations refer to; each segmentation is read only once."""
        labelled = []
        for found in map(Dataset.from_json, self._client.search_for_series(search_filters={"Modality": "SEG"})):
            series = str(found.SeriesInstanceUID)
            if series not in self._referred:
                instances = self._client.retrieve_series_metadata(str(found.StudyInstanceUID), series)
                sequence = Dataset.from_json(instances[0]).get("ReferencedSeriesSequence") if instances else None
                self._referred[series] = str(sequence[0].SeriesInstanceUID) if sequence else ""
            labelled.append(self._referred[series])
        return [image_id for image_id in labelled if image_id]

    def _recall(self, what: str, ask: Callable[[], Any]) -> Any:
        with self._memory_lock:
            known = self._remembered.get(what)
        if known and time.monotonic() - known[0] < settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY:
            return known[1]
        answer = ask()
        with self._memory_lock:
            self._remembered[what] = (time.monotonic(), answer)
        return answer


def open_dicomweb(url: str, state: Path) -> DICOMwebStore:
    """Connect to a DICOMweb server with MONAI Label's settings for user, password and URL prefixes."""
    session = None
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session = create_session_from_user_pass(
            settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        )
    client = DICOMwebClientX(
        url=url,
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    return DICOMwebStore(client, state)
