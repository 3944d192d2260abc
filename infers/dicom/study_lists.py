"""Opens the study list that a server is started for: a folder, or a DICOMweb server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.config import settings

from infers.store.datastore import StudyStore
from infers.store.presence import private_state


def open_study_list(studies: str, state: Path | None) -> Any:
    """The study list at an address or in a folder; `state` is where the records of one at an address lie."""
    if studies.startswith(("http://", "https://")):
        from infers.dicom.dicomweb import open_dicomweb  # its packages take a second to load

        return open_dicomweb(studies.rstrip("/"), state or private_state(studies.rstrip("/")))
    return StudyStore(
        studies,
        extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
        auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
        read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
    )
