"""A client saves a label, or says something about one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from infers.annotate.prompted import check_seen
from infers.board.decisions import version_of
from infers.guards import safe_name
from infers.label_records import FINAL, FORMER, LabelRecord, Statement
from infers.store.datastore import StoredLabel
from infers.study_list.changes import Changes
from infers.study_list.studies import Studies
from infers.use_cases.images import image_path
from lib.imaging.images import read_label


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
                is not replaced, unless it is this very label, sent again because the answer never came. None: whatever
                there is.

        Returns:
            What the client is answered: `image`, `label`; of a final label its `version`, whether it is a `template`,
            whose label it `replaced`, and why it is not on the DICOMweb server (`dicom_seg_problem`).

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
            answer["version"] = version_of(store.label(image_id, FINAL))
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
                now = store.label(image_id, FINAL)
                if not (now and version_of(now) != seen and self._sent_again(image_id, now, path, record)):
                    check_seen(now, seen)
            store.save(image_id, path, tag, record)

    def _sent_again(self, image_id: str, now: StoredLabel, path: Path, record: LabelRecord) -> bool:
        """Whether a label is the one that is stored, from the same client."""
        former = now.record
        same = (former.structures, former.author, former.statement.client_id)
        if same != (record.structures, record.author, record.statement.client_id):
            return False
        image = self._studies.image(image_id)
        return np.array_equal(read_label(now.path, image), read_label(path, image))
