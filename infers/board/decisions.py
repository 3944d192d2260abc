"""What a person decides on the board, carried out on the datastore; what a person submitted is never touched."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, ON_BOARD, PROMPTED, LabelRecord, Provenance, Rejection, Statement
from infers.limits import MB
from infers.store.datastore import StoredLabel
from infers.store.locked import NO_IMAGE
from infers.study_list.acceptance import Acceptance
from infers.study_list.studies import Studies
from lib.imaging.images import ImageError, read_label

AT_ONCE = 16  # studies decided on under one lock, and written to the index together: others wait for that long only
HAS_FINAL = "it has a final label already, which is never overwritten"
CHANGED = "its mask or label changed since it was shown: look at it again"


@dataclass
class Outcome:
    """Ids for which something was done, and {id: reason} of the others."""

    done: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, image_id: str, act: Callable[[str], str | None]) -> None:
        """Try one; `act` returns why not, or None."""
        try:
            reason = act(image_id)
        except (ClientError, ImageError, OSError) as error:
            reason = str(error)
        if reason:
            self.refused[image_id] = reason
        else:
            self.done.append(image_id)


class Decisions:
    """Accept, reject, undo and the like, for one study list.

    Args:
        studies: the study list.
        acceptance: interactive results that wait.
        changed: called after templates changed.
        again: called when masks have to be made again.
    """

    def __init__(
        self, studies: Studies, acceptance: Acceptance, changed: Callable[[], Any], again: Callable[[], Any]
    ) -> None:
        self._studies, self._acceptance = studies, acceptance
        self._changed, self._again = changed, again

    def accept(self, ids: Sequence[str], user: str, versions: Mapping[str, str]) -> Outcome:
        """Make automatic masks final labels, with who accepted them and what made them.

        Args:
            ids: studies.
            user: the author to record.
            versions: {id: version of the mask that was looked at}; a mask made anew since then is not accepted.
        """
        outcome = Outcome()
        masks: dict[str, tuple[str, LabelRecord]] = {}

        def check(image_id: str) -> str | None:
            mask, made = self._mask(image_id)
            if versions.get(image_id) not in (None, version_of(mask)):
                return CHANGED
            if not self._studies.is_of_image(image_id, made):
                return "its image changed since the mask was made: have it made again"
            if not made.names:
                return "its mask is empty: there is nothing to accept"
            masks[image_id] = (mask.checksum, _accepted(made, user))
            return None

        checked = Outcome()
        for image_id in self._known(ids):
            checked.add(image_id, check)
        outcome.refused = checked.refused
        for start in range(0, len(checked.done), AT_ONCE):
            some = checked.done[start : start + AT_ONCE]
            done = self._studies.store.promote({image_id: masks[image_id] for image_id in some})
            outcome.done += [image_id for image_id in some if image_id in done]
            outcome.refused |= {image_id: CHANGED for image_id in some if image_id not in done}
        if outcome.done:
            self._changed()
        return outcome

    def reject(self, ids: Sequence[str], user: str, versions: Mapping[str, str]) -> Outcome:
        """Mark automatic masks as wrong; they stay until the templates change and they are made again."""

        def act(image_id: str) -> str | None:
            mask, _ = self._mask(image_id)
            if versions.get(image_id) not in (None, version_of(mask)):
                return CHANGED
            rejected = Rejection(user, int(time.time()))
            self._studies.store.amend(image_id, AUTOMATIC, lambda record: replace(record, rejected=rejected))
            return None

        return self._each(ids, act)

    def undo(self, ids: Sequence[str]) -> Outcome:
        """Take acceptance, rejection or prompts back; never a label that a person submitted."""

        def act(image_id: str) -> str | None:
            store = self._studies.store
            if store.label(image_id, FINAL) is not None:
                return None if store.withdraw(image_id) else "a person submitted its label, which stays"
            mask = store.label(image_id, AUTOMATIC)
            if mask is None or not mask.record.rejected:
                if store.label(image_id, PROMPTED) is None:
                    return "it was neither accepted nor rejected, nor prompted"
                store.remove_label(image_id, PROMPTED)
                return None
            store.amend(image_id, AUTOMATIC, lambda record: replace(record, rejected=None))
            return None

        return self._each(ids, act, then=self._changed)

    def use_as_template(self, ids: Sequence[str], use: bool) -> Outcome:
        """Keep final labels out of the bank (and of training), or take them in again."""

        def act(image_id: str) -> str | None:
            if self._studies.store.label(image_id, FINAL) is None:
                return "it has no final label: accept its mask, or submit one"
            self._studies.store.amend(image_id, FINAL, lambda record: replace(record, template=use))
            return None

        return self._each(ids, act, then=self._changed)

    def run_again(self, ids: Sequence[str]) -> Outcome:
        """Have masks made again though nothing changed; also of studies that failed."""

        def act(image_id: str) -> str | None:
            if self._studies.store.label(image_id, FINAL) is not None:
                return HAS_FINAL
            if own := self._studies.own_mask(image_id):
                forgotten = replace(own[1], fingerprint="")
                self._studies.store.amend(image_id, AUTOMATIC, lambda record: replace(record, provenance=forgotten))
            elif (mask := self._studies.store.label(image_id, AUTOMATIC)) and _is_torn(mask.path):
                # Not its record's bytes any more, so it passes for somebody else's mask, but nobody can read it
                self._studies.store.set_aside(image_id, AUTOMATIC)
            return None

        return self._each(ids, act, then=self._again)

    def accept_results(self, ids: Sequence[str], user: str) -> Outcome:
        """Save the newest interactive results as final labels now."""

        def act(image_id: str) -> str | None:
            saved = self._acceptance.accept_now(image_id, user)
            return None if saved else "the result is empty, or a person submitted a label, which stays"

        outcome = Outcome()
        for image_id in self._known(ids):  # one by one: what follows a saved label must not wait for the list's lock
            outcome.add(image_id, act)
        return outcome

    def _each(
        self, ids: Sequence[str], act: Callable[[str], str | None], then: Callable[[], object] | None = None
    ) -> Outcome:
        """Act on each study, and then say once that something was done."""
        outcome, known = Outcome(), list(self._known(ids))
        for start in range(0, len(known), AT_ONCE):
            with self._studies.store.at_once():
                for image_id in known[start : start + AT_ONCE]:
                    outcome.add(image_id, act)
        if outcome.done and then:
            then()
        return outcome

    def _known(self, ids: Sequence[str]) -> Iterable[str]:
        """The ids without repetitions. Raises NotFound before anything is done where one is no study."""
        listed = set(self._studies.store.list_images())
        for image_id in ids:
            if image_id not in listed:
                raise NotFound(NO_IMAGE.format(image_id[:80]))
        return dict.fromkeys(ids)

    def _mask(self, image_id: str) -> tuple[StoredLabel, Provenance]:
        """The mask to decide on, and what made it. Raises ClientError where there is none, or it is not ours."""
        if self._studies.store.label(image_id, FINAL) is not None:
            raise ClientError(HAS_FINAL)
        if own := self._studies.own_mask(image_id):
            return own
        if self._studies.store.label(image_id, AUTOMATIC) is None:
            raise ClientError("it has no automatic mask yet")
        raise ClientError("its mask was put there by somebody else: open it in a viewer and submit it")


def version_of(label: StoredLabel | None) -> str:
    """Short name of a label's bytes; empty where there is no label."""
    return label.checksum[:16] if label else ""


def _accepted(made: Provenance, user: str) -> LabelRecord:
    """The record of a final label that was an automatic mask."""
    label_info = [{"name": name, "idx": index} for name, index in made.names.items()]
    return LabelRecord(
        Statement(label_info), author=user, structures=dict(made.names), accepted=ON_BOARD, provenance=made
    )


def _is_torn(label: Path) -> bool:
    """Whether a label cannot be read, or is packed and lacks its end."""
    try:
        read_label(label)
        if label.name.endswith(".gz"):
            with gzip.open(label) as packed:
                while packed.read(MB):
                    pass
    except (ImageError, EOFError, zlib.error, gzip.BadGzipFile):
        return True
    return False
