"""The board's parts together, as the routes use them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from infers.board.decisions import Decisions
from infers.board.thumbnails import Thumbnails, colours, shown_label
from infers.errors import NotFound
from infers.jobs.propagation import Propagation
from infers.limits import MB
from infers.store.datastore import StoredLabel
from infers.store.locked import NO_IMAGE
from infers.study_list.acceptance import Acceptance
from infers.study_list.rows import Page, Row, Rows, Wanted, select
from infers.study_list.studies import Studies
from infers.study_list.template_check import TemplateCheck

READ_ONLY = "{} cannot be written: images and labels are shown, and nothing can be saved or segmented"
SHOWN = 100  # files that are left out: a page asks every second


class Board:
    """The review board of one study list.

    Args:
        studies: the study list.
        job: the background job.
        acceptance: interactive results that wait.
        changed: called after templates changed.
        check: of the templates.
        pictures: bytes of them to keep.
        exposure: who can reach the server, where somebody should know of it.
    """

    def __init__(
        self,
        studies: Studies,
        job: Propagation,
        acceptance: Acceptance,
        changed: Callable[[], Any],
        check: TemplateCheck,
        pictures: int = 64 * MB,
        exposure: Callable[[], list[str]] = list,
    ) -> None:
        self._studies, self._job, self._acceptance = studies, job, acceptance
        self._template_check, self._exposure = check, exposure
        self._lock, self._rows = threading.Lock(), Rows(studies)
        self._thumbnails = Thumbnails(studies, pictures)
        self.decisions = Decisions(studies, acceptance, changed, job.trigger)

    @property
    def held(self) -> int:
        """Bytes of pictures that are kept."""
        return self._thumbnails.held

    def rows(self) -> list[Row]:
        """Every study as it stands now."""
        with self._lock:
            return self._rows.make(self._job.status().failed, self._acceptance.waiting())

    def page(self, wanted: Wanted) -> Page:
        """Some of them. Raises NotFound where a study is wanted that does not exist."""
        return select(self.rows(), wanted)

    def above(self, bound: float | None, search: str) -> list[str]:
        """Ids of automatic masks that nobody judged, without alarm and predicted at `bound` or better, whose ids hold
        `search`."""
        wanted = Wanted(search=search, at_least=bound)
        return [row.id for row in self.rows() if row.status == "automatic" and wanted.fits(row)]

    def quality(self) -> dict[str, Any]:
        """What the predictions rest on: corrected cases by structure, and the check of the templates."""
        return {"corrections": self._studies.quality.cases(), "health": self._template_check.status()}

    def unreadable(self) -> dict[str, Any]:
        """How many files of the study folder are left out, and the first of them with the reasons."""
        unreadable = self._studies.store.unreadable()
        return {"count": len(unreadable), "files": dict(sorted(unreadable.items())[:SHOWN])}

    def warnings(self) -> list[str]:
        """What whoever works here should know of the server: who else reaches it, and that nothing can be saved."""
        store = self._studies.store
        return [*self._exposure(), *([READ_ONLY.format(store.root)] if store.closed else [])]

    def files(self) -> list[dict[str, Any]]:
        """Every file of the study folder: taken as what, joined with what, or left out why."""
        store = self._studies.store
        of_studies = store.notes()
        files = []
        for one in store.listing():
            notes = (one.note, of_studies.get(one.study) if one.taken == "image" else "")
            files.append({**asdict(one), "note": "; ".join(note for note in notes if note)})
        return files

    def shown(self, image_id: str) -> StoredLabel | None:
        """The label that a study's picture shows."""
        return shown_label(self._studies, image_id)

    def thumbnail(self, image_id: str, size: int) -> bytes:
        """PNG. Raises NotFound, ImageError."""
        self._check(image_id)
        return self._thumbnails.png(image_id, size)

    def colours(self) -> dict[str, str]:
        """{structure: #rrggbb}."""
        return colours(self._studies.labels.names)

    @property
    def ohif(self) -> bool:
        """Whether studies can be opened in OHIF, which reads DICOMweb only."""
        return self._studies.store.on_dicomweb

    def study_uid(self, image_id: str) -> str:
        """StudyInstanceUID of a study. Raises NotFound."""
        self._check(image_id)
        return self._studies.store.study_uid(image_id)

    def _check(self, image_id: str) -> None:
        if image_id not in self._studies.store.list_images():
            raise NotFound(NO_IMAGE.format(image_id[:80]))
