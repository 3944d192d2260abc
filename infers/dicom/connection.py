"""A connection to a DICOMweb server with MONAI Label's settings for user, password, URL prefixes and patience."""

from __future__ import annotations

from typing import Any

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX


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
