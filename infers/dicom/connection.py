"""A connection to a DICOMweb server with MONAI Label's settings for user, password, URL prefixes and patience; and the
series that it lists, whose UIDs become names of files here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.dataset import Dataset

from infers.guards import safe_name

logger = logging.getLogger(__name__)


class ListedSeries(NamedTuple):
    """What a search tells of a series; a study's UID or a modality that it does not tell is empty."""

    uid: str
    study: str
    modality: str


def listed_series(answers: Iterable[dict[str, Any]]) -> Iterator[ListedSeries]:
    """The series that a search answers with; one whose UID is no plain name, or missing, is left out with a warning."""
    for answer in answers:
        try:
            series = Dataset.from_json(answer)
            uid = safe_name("SeriesInstanceUID", str(series.SeriesInstanceUID))
            yield ListedSeries(uid, str(series.get("StudyInstanceUID", "")), str(series.get("Modality", "")))
        except Exception as error:  # a server may say anything, and the rest of its list is usable
            _leave_out(str(error)[:300])


@lru_cache(maxsize=256)
def _leave_out(reason: str) -> None:
    """Said once, however often the list is asked for."""
    logger.warning("a series that the DICOMweb server lists is left out: %s", reason)


def connect(url: str) -> DICOMwebClientX:
    """A client of the server; nothing is asked yet."""
    session = _ImpatientSession()
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    client = DICOMwebClientX(
        url=url,
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    client.set_http_retry_params(retry=False)  # whoever asked can ask again; half a minute of waiting helps nobody
    return client


class _ImpatientSession(requests.Session):
    """Waits for an answer as long as the proxy does; by itself it would wait for ever."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        if options.get("timeout") is None:
            options["timeout"] = settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT
        return super().request(*arguments, **options)
