"""The segmentations (DICOM SEG) on a DICOMweb server: which there are, of which series, and the way there and back.

A stored instance never changes, so each segmentation's headers are read once. Those that cannot be used are remembered
with the reason, and left alone.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from infers.dicom.connection import listed_series
from infers.dicom.dicomseg import AUTOMATIC_SERIES, RECORDED, Maker, write_seg
from infers.label_records import LabelRecord
from infers.names import names_by_value
from infers.store.datastore import StoredLabel
from lib.imaging.dicom_seg import read_seg
from lib.imaging.images import Image, ImageError
from lib.imaging.label_maps import boxes_of

logger = logging.getLogger(__name__)

AS_STORED = (("application/dicom", "*"),)  # by default a server unpacks, and many cannot unpack JPEG 2000

_NEEDED = ("ReferencedSeriesSequence", "ContentDate", "ContentTime", "SeriesDescription")


@dataclass(frozen=True)
class SegSeries:
    """A segmentation on the server: its ids, the image series it refers to, and when it was made (sorts as text)."""

    uid: str
    study: str
    image: str
    made: str
    automatic: bool


class PacsLabels:
    """The segmentations of one server, by a `dicomweb_client` of it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._known: dict[str, SegSeries | None] = {}
        self._unusable: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._strangers: set[str] = set()  # series that segmentations refer to and that are not there
        self._lock = threading.Lock()

    def search(self) -> dict[str, list[SegSeries]]:
        """{image series: its usable final segmentations, the oldest first} as the server has them now."""
        by_image = defaultdict(list)
        for series in listed_series(self._client.search_for_series(search_filters={"Modality": "SEG"})):
            seg = self._read(series.study, series.uid)
            if seg and not seg.automatic and seg.uid not in self._unusable:
                by_image[seg.image].append(seg)
        return {image: sorted(segs, key=lambda seg: (seg.made, seg.uid)) for image, segs in by_image.items()}

    def of(self, images: Collection[str]) -> dict[str, list[SegSeries]]:
        """As `search`, of these image series alone; says of others, once, that they are not there."""
        by_image = self.search()
        for image in by_image.keys() - set(images) - self._strangers:
            self._strangers.add(image)
            logger.warning(
                "the segmentation %s refers to series %s, which is not on the DICOMweb server: it is left out until "
                "that series is stored there too",
                by_image[image][-1].uid,
                image,
            )
        return {image: segs for image, segs in by_image.items() if image in images}

    def fetch(
        self, seg: SegSeries, image: Image, series: Sequence[Dataset]
    ) -> tuple[np.ndarray, dict[str, int]] | None:
        """A segmentation as a label on the image's grid and {structure: value}; None where it cannot be used.

        `series` are the headers of the instances that the image was made of.
        """
        try:
            instances = self._client.retrieve_series(seg.study, seg.uid, media_types=AS_STORED)
            if len(instances) != 1:
                raise ImageError(f"a segmentation must be one instance, and the series has {len(instances)}")
            return read_seg(instances[0], image, series)
        except (ImageError, requests.HTTPError, InvalidDicomError, EOFError) as error:
            self.leave_out(seg, str(error))
            return None

    def leave_out(self, seg: SegSeries, reason: str) -> None:
        """Never ask for a segmentation again."""
        logger.error("the segmentation %s of series %s is left out: %s", seg.uid, seg.image, reason)
        with self._lock:
            self._unusable[seg.uid] = reason
            self._left_out[seg.image] = f"a DICOM SEG of it is left out: {reason}"

    @property
    def left_out(self) -> dict[str, str]:
        """{image series: why the last segmentation of it that was left out could not be used}."""
        with self._lock:
            return dict(self._left_out)

    def store(self, seg: Dataset) -> None:
        """Store a segmentation. Raises requests.RequestException where the server does not take it."""
        self._client.store_instances([seg])

    def _read(self, study: str, uid: str) -> SegSeries | None:
        with self._lock:
            if uid in self._known:
                return self._known[uid]
        instances = self._client.retrieve_series_metadata(study, uid)
        seg = _series(study, uid, _header(instances[0])) if instances else None
        if seg is None:
            logger.warning("the segmentation %s does not say which series it belongs to: it is left out", uid)
        with self._lock:
            self._known[uid] = seg
        return seg


def _header(metadata: Mapping[str, Any]) -> Dataset:
    """What is needed of an instance's headers as DICOM JSON; the pixels that these refer to are not among it."""
    tags = (f"{tag_for_keyword(keyword):08X}" for keyword in _NEEDED)
    return Dataset.from_json({tag: metadata[tag] for tag in tags if tag in metadata})


def _series(study: str, uid: str, header: Dataset) -> SegSeries | None:
    referred = header.get("ReferencedSeriesSequence")
    if not referred or not referred[0].get("SeriesInstanceUID"):
        return None
    made = [str(header.get(tag) or "") for tag in ("ContentDate", "ContentTime")]
    automatic = header.get("SeriesDescription") == AUTOMATIC_SERIES
    return SegSeries(uid, study, str(referred[0].SeriesInstanceUID), " ".join(made), automatic)


def final_seg(
    series: Sequence[Dataset], image: Image, label: np.ndarray, record: LabelRecord, automatic: StoredLabel | None
) -> Dataset:
    """A final label as DICOM SEG.

    Args:
        series: the instances that the image was made of.
        image: the image.
        label: integers (I, J, K) on its grid.
        record: what is recorded about the label.
        automatic: the automatic mask that the person was shown; None where there was none.

    Raises:
        ImageError: see `write_seg`.
    """
    names = record.structures or record.statement.label_names
    if not names:
        values = list(boxes_of(label))
        names = {name: value for value, name in names_by_value(values, record.statement.naming, ()).items()}
    made = record.provenance or (automatic.record.provenance if automatic else None)
    by = Maker.SEMIAUTOMATIC if record.accepted or automatic else Maker.MANUAL
    return write_seg(series, image, label, names, by=by, provenance=_recorded(made.to_json() if made else {}))


def inferred_seg(series: Sequence[Dataset], image: Image, label: np.ndarray, params: Mapping[str, Any]) -> Dataset:
    """A mask that a model just made as DICOM SEG; `params` is what a client is told about it. Raises ImageError."""
    return write_seg(series, image, label, params["label_names"], by=Maker.AUTOMATIC, provenance=_recorded(params))


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key in RECORDED}
