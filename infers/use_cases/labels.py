"""A client saves a label, or says something about one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from infers.annotate.prompted import check_seen
from infers.guards import safe_name
from infers.label_records import FINAL, FORMER, LabelRecord, Statement
from infers.study_list.changes import Changes
from infers.study_list.studies import Studies
from infers.use_cases.images import image_path


class Labels:
    """Labels of one study list.

    Args:
        studies: the list.
        changes: told of every final label.
    """

    def __init__(self, studies: Studies, changes: Changes) -> None:
        self._studies, self._changes = studies, changes

    def save(
        self, image_id: str, path: Path, tag: str, statement: Statement, user: str | None, seen: str | None = None
    ) -> dict[str, Any]:
        """Store a label that a client submitted; a final one is checked first and becomes a template.

        Args:
            image_id, path, tag: whose label it is, its file and its tag.
            statement, user: what the client says of it, and who it is.
            seen: version of the final label that the client began from, empty where there was none: another one by now
                is not replaced. None: whatever there is.

        Returns:
            What the client is answered: `image`, `label`; of a final label whether it is a `template`, and whose label
            it `replaced`, and why it is not on the DICOMweb server (`dicom_seg_problem`).

        Raises:
            ClientError, ImageError: the label cannot be used.
        """
        store = self._studies.store
        safe_name("tag", tag)
        image_path(store, image_id)
        before = store.records(image_id).get(FORMER)
        if tag == FINAL:
            with self._studies.as_label_map(image_id, path, statement) as (plain, named):
                structures = self._studies.check_label(image_id, plain, named)
                self._store(image_id, plain, tag, LabelRecord(named, author=user, structures=structures), seen)
        else:
            self._store(image_id, path, tag, LabelRecord(statement, author=user), seen)
        former = store.records(image_id).get(FORMER)
        answer: dict[str, Any] = {"image": image_id, "label": image_id}
        if tag == FINAL:
            self._changes.label_saved(image_id)
            answer["template"] = image_id in self._studies.templates()
            final = store.records(image_id).get(FINAL)
            if final and final.dicom_seg_problem:  # saved here, but not where others look for it
                answer["dicom_seg_problem"] = final.dicom_seg_problem
        if former and former != before:
            whose = {"user": former.author, "client_id": former.statement.client_id, "ts": former.saved}
            answer["replaced"] = {**whose, "kept_as": FORMER}
        return answer

    def describe(self, image_id: str, tag: str, statement: Statement, user: str | None) -> None:
        """Add what a client says of a label to its record. Raises NotFound."""
        safe_name("tag", tag)
        self._studies.store.amend(image_id, tag, lambda record: record.described(statement, user))

    def _store(self, image_id: str, path: Path, tag: str, record: LabelRecord, seen: str | None) -> None:
        store = self._studies.store
        # A DICOMweb server is never asked while the list is locked
        with store.at_once() if seen is not None and not store.on_dicomweb else nullcontext():
            if seen is not None:
                check_seen(store.label(image_id, FINAL), seen)
            store.save(image_id, path, tag, record)
