"""What the server's own rooms know: templates of a MONAI Label study list, and DICOMweb in and out.

Imported only where a run needs it, because MONAI Label takes seconds to import.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import requests

from infers.dicom.connection import connect, listed_series
from infers.dicom.pacs_labels import AS_STORED
from infers.names import LabelMap
from infers.store.datastore import StudyStore
from infers.store.dicom_files import NO_IMAGES
from infers.store.presence import STATE_FOLDER
from infers.study_list.descriptors import Descriptors
from infers.study_list.labelled_studies import LabelledStudies
from lib.cluster.host import Away
from lib.imaging.errors import ImageError
from lib.imaging.image import Image
from lib.inference.templates import Template, TemplateError
from lib.segmenters import registry
from scripts.archive.seg_files import automatic_seg, seg_bytes
from scripts.archive.studies import Study
from scripts.archive.work import Answer
from scripts.doctor import mirror

PAGE = 1000  # series asked for at once


def templates_of(folder: Path) -> tuple[list[Template], dict[str, int]]:
    """The bank of a MONAI Label study list, and {structure: value in masks}; nothing is written into the list.

    Raises:
        TemplateError: it holds no usable template.
    """
    with mirror(folder) as links:
        state = links / STATE_FOLDER
        state.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copy(folder / STATE_FOLDER / "labels.json", state)
        store = StudyStore(str(links))
        labels = LabelMap(state / "labels.json", ())
        studies = LabelledStudies(store, labels, Descriptors(store, state / "looks.npz"), frozenset(registry.MODELS))
        studies.restore_labels()
        templates = [studies.bank.get(id) for id in sorted(studies.templates())]
        if not templates:
            why = "; ".join(f"{id}: {reason}" for id, reason in studies.problems.items())
            raise TemplateError(
                f"{folder} must be a study list with a final label, and none can be used"
                + (f" ({why})" if why else "")
                + ": label one study there first, or name an image with --template and --label"
            )
        shown = {name for template in templates for name in template.structures}
        return templates, {name: value for name, value in labels.names.items() if name in shown}


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Within, a server that is away or overloaded is `Away`, and what it does not have is the study's fault."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if status in (401, 403, 408, 429) or status >= 500:
            raise Away(f"{url} answers {status}: {error}") from error
        raise ImageError(f"{url} answers {status}: {error}") from error
    except (requests.RequestException, OSError) as error:  # no answer, or one that broke off
        raise Away(f"{url} does not answer: {error}") from error


class _Client:
    """A DICOMweb client that is made where it is used."""

    def __init__(self, url: str) -> None:
        self.address = url.rstrip("/")

    @cached_property
    def client(self) -> Any:
        """Of this process."""
        return connect(self.address)

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}


class DICOMweb(_Client):
    """Image series of a DICOMweb server, a study each; their ids are SeriesInstanceUIDs."""

    def studies(self) -> Iterator[Study]:
        """In the server's order, page by page. Raises Away."""
        offset = 0
        while True:
            with _asking(self.address):
                page = self.client.search_for_series(limit=PAGE, offset=offset)
            for series in listed_series(page):
                if series.modality not in NO_IMAGES:
                    yield Study(series.uid, series.study)
            offset += len(page)
            if len(page) < PAGE:
                return

    @contextmanager
    def opened(self, study: Study) -> Iterator[Path]:
        """A folder with the series' instances, for as long as the context lasts. Raises Away, ImageError."""
        with tempfile.TemporaryDirectory(prefix="oneprompt-series-") as folder:
            with _asking(self.address):
                instances = self.client.retrieve_series(study.place, study.id, media_types=AS_STORED)
            for number, instance in enumerate(instances, start=1):
                instance.save_as(Path(folder) / f"{number:05d}.dcm")
            if not instances:
                raise ImageError(f"series {study.id} is empty on the DICOMweb server: store its images there")
            del instances
            yield Path(folder)


class SegsOnDICOMweb(_Client):
    """DICOM SEG objects on a DICOMweb server; one sent twice is there once."""

    def write(self, study: Study, opened: Path, image: Image, answer: Answer, key: str) -> tuple[str, int]:
        """See `scripts.archive.work.Output`; the mask lies at its SeriesInstanceUID."""
        seg = automatic_seg(opened, image, answer, key)
        with _asking(self.address):
            self.client.store_instances([seg])
        return str(seg.SeriesInstanceUID), len(seg_bytes(seg))
