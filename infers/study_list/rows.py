"""The study list as the board shows it: one row a study, filtered, sorted and in pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_
from typing import Any, NamedTuple

from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, ON_BOARD, PROMPTED, LabelRecord, Provenance, StructureScore
from infers.study_list.studies import Studies
from lib.quality.estimate import Quality

QUALITY = ("quality", "quality_interval", "quality_reason", "alarms")  # fields of a row, as in the masks' records
STATUSES = ("automatic", "rejected", "failed", "unlabelled", "prompted", "accepted", "template", "excluded")


@dataclass(frozen=True)
class Row:
    """What is known about one study.

    Attributes:
        id: the study's id.
        status: one of `STATUSES`: `template` a label that a person submitted, `accepted` an automatic mask that a
            person accepted (a template too), `excluded` either of them kept out of the bank, `prompted` a template by
            its prompts alone, which may have an automatic mask as well.
        quality: {structure: predicted Dice, 0 to 1}; of an accepted study that of its mask.
        quality_interval: {structure: bounds of the true Dice in 9 of 10 cases}, where they are known.
        quality_reason: {structure: the one thing to know about its mask}.
        alarms: {structure: what is alarming about its mask}, of those with alarms.
        reason: why it failed.
        note: what to know of its files: how it was found, and what reading it told.
        author: who submitted, accepted or rejected.
        templates: ids of the studies that the mask was made from.
        most_weight: id of the template that counted more than all others together; empty where there is none, or where
            the model does not say.
        undoable: accepted or rejected, so that undo means something.
        offered: an interactive result waits to be accepted.
        outdated: the templates or weights changed since the mask was made.
        score: {structure: {dice, surface_mm}} of the automatic mask against the label that a person submitted.
    """

    id: str
    status: str
    quality: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    author: str | None = None
    templates: Sequence[str] = ()
    undoable: bool = False
    offered: bool = False
    outdated: bool = False
    quality_interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quality_reason: Mapping[str, str] = field(default_factory=dict)
    alarms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    score: Mapping[str, StructureScore] = field(default_factory=dict)
    note: str = ""
    most_weight: str = ""

    @cached_property
    def worst(self) -> str | None:
        """The structure of the lowest predicted Dice, or None."""
        return min(self.quality, key=lambda name: self.quality[name], default=None)

    @cached_property
    def predicted(self) -> float | None:
        """The lowest of its structures' predicted Dice, or None."""
        return None if self.worst is None else self.quality[self.worst]

    def with_quality(self, quality: Mapping[str, Quality]) -> Row:
        """The same with what is expected of its mask."""
        return replace(
            self,
            quality={name: round(one.dice, 4) for name, one in quality.items() if one.dice is not None},
            quality_interval={
                name: (round(one.low, 4), round(one.high, 4))
                for name, one in quality.items()
                if one.low is not None and one.high is not None
            },
            quality_reason={name: one.reason for name, one in quality.items() if one.reason},
            alarms={name: list(one.alarms) for name, one in quality.items() if one.alarms},
        )

    def brief(self) -> dict[str, Any]:
        """As GET /oneprompt/status tells it."""
        brief: dict[str, Any] = {"status": self.status}
        if self.status in ("automatic", "rejected", "accepted"):
            brief |= {key: dict(getattr(self, key)) for key in QUALITY}
        return {**brief, **{key: getattr(self, key) for key in ("reason", "note") if getattr(self, key)}}


class _Known(NamedTuple):
    """A study's row and what it was made from: its records, its note, whether it was described, and all that counts."""

    records: Mapping[str, LabelRecord]
    note: str
    complete: bool
    key: tuple[object, ...]
    row: Row


class Rows:
    """The rows of one study list; a study's is made anew where something of it changed.

    Args:
        studies: the study list.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._known: dict[str, _Known] = {}
        self._common: tuple[object, ...] = ()  # what the rows follow from beside the studies' own records
        self._made: tuple[int | None, list[Row]] | None = None  # all rows together, and the version they are of

    def make(self, failed: Mapping[str, str], offered: Collection[str]) -> list[Row]:
        """A row for every study, in the list's order.

        Args:
            failed: {id: reason} of studies that the job could not segment.
            offered: ids of studies with an interactive result that waits.
        """
        studies = self._studies
        version, state = studies.store.version, studies.state()  # before anything is looked at
        templates, fingerprint_of, problems = studies.templates(), studies.fingerprints(), studies.problems
        common = (state, templates, dict(failed), list(offered), problems, quality := studies.quality.version)
        alike = common == self._common
        if version is not None and alike and self._made is not None and self._made[0] == version:
            return self._made[1]
        notes, complete = studies.store.notes(), True
        known, self._known, self._common = self._known, {}, common  # of studies that are gone nothing is kept
        for image_id, records in studies.store.overview().items():
            former, note = known.get(image_id), notes.get(image_id, "")
            if alike and former and former.complete and former.records is records and former.note == note:
                self._known[image_id] = former
                continue
            reason = failed.get(image_id)
            if FINAL in records or (AUTOMATIC not in records and not reason):
                reason = problems.get(image_id)
            mask = records.get(AUTOMATIC)
            own = mask.made_by(studies.models) if mask and FINAL not in records else None
            fingerprint = fingerprint_of(image_id) if own else ""
            described = fingerprint is not None  # else it is sooner or later
            complete = complete and described
            outdated = own is not None and fingerprint not in (None, own.fingerprint)
            others = (reason, image_id in templates, outdated, image_id in offered, note)
            key = (records.get(FINAL), mask, records.get(PROMPTED), *others, quality)
            row = former.row if former and _same(former.key, key) else self._row(image_id, records, *others)
            self._known[image_id] = _Known(records, note, described, key, row)
        rows = [one.row for one in self._known.values()]
        self._made = (version, rows) if complete else None
        return rows

    def _row(
        self,
        image_id: str,
        records: Mapping[str, LabelRecord],
        reason: str | None,
        usable: bool,
        outdated: bool,
        offered: bool,
        note: str,
    ) -> Row:
        final, mask = records.get(FINAL), records.get(AUTOMATIC)
        if final is not None:
            row, made = _labelled(image_id, final, mask, usable, reason), _accepted_mask(final)
        else:
            made = mask.provenance if mask else None
            row = _unlabelled(image_id, mask, reason, outdated)
            if (prompted := records.get(PROMPTED)) is not None:
                row = replace(row, status="prompted", author=prompted.author, undoable=True)
        row = replace(row, offered=offered, note=note, most_weight=made.most_weight if made else "")
        return row.with_quality(self._studies.quality.of(made)) if made else row


def _same(former: Sequence[object], now: Sequence[object]) -> bool:
    """Whether two keys are the same: records the same objects, all else equal."""
    return all(map(is_, former[:3], now[:3])) and former[3:] == now[3:]


def _labelled(image_id: str, final: LabelRecord, mask: LabelRecord | None, usable: bool, reason: str | None) -> Row:
    """The row of a study with a final label."""
    status = "accepted" if final.accepted == ON_BOARD else "template"
    if not final.template:
        status, reason = "excluded", None
    elif not usable:
        status = "failed" if reason else "template"
    templates = final.provenance.templates if final.provenance else ()
    score = mask.score or {} if mask and status == "template" else {}
    return Row(image_id, status, {}, reason, final.author, templates, undoable=not final.submitted, score=score)


def _unlabelled(image_id: str, mask: LabelRecord | None, reason: str | None, outdated: bool) -> Row:
    """The row of a study without one."""
    if mask is None:
        return Row(image_id, "failed" if reason else "unlabelled", reason=reason)
    rejected, made = mask.rejected, mask.provenance
    status = "failed" if reason else "rejected" if rejected else "automatic"
    return Row(image_id, status, {}, reason, rejected.author if rejected else None, made.templates if made else (),
               undoable=rejected is not None, outdated=outdated)  # fmt: skip


def _accepted_mask(final: LabelRecord) -> Provenance | None:
    """What made the mask that was accepted; None for a label that a person submitted."""
    return final.provenance if final.accepted == ON_BOARD else None


@dataclass(frozen=True)
class Wanted:
    """Which rows to show.

    Attributes:
        statuses: none for all.
        search: part of an id, in any case.
        at_least: lowest predicted Dice of what has no alarm, or None.
        sort: a key of `ORDERS`.
        page: from 1; beyond the last one means the last.
        per_page: rows on a page.
        show: an id whose page is wanted, whatever `page` says.
    """

    statuses: tuple[str, ...] = ()
    search: str = ""
    at_least: float | None = None
    sort: str = "worst"
    page: int = 1
    per_page: int = 24
    show: str = ""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.statuses) - set(STATUSES)):
            raise ClientError(f"status must be among {', '.join(STATUSES)}, with commas between; got {unknown[0]!r}")
        if self.sort not in ORDERS:
            raise ClientError(f"sort must be one of {', '.join(ORDERS)}, got {self.sort!r}")

    def fits(self, row: Row) -> bool:
        """Whether a row passes search and bound, whatever its status."""
        enough = self.at_least is None or (
            row.predicted is not None and row.predicted >= self.at_least and not row.alarms
        )
        return enough and self.search.lower() in row.id.lower()


def _worst(row: Row) -> Any:
    return (row.predicted is None, row.predicted or 0.0, row.id)


def _best(row: Row) -> Any:
    return (row.predicted is None, -(row.predicted or 0.0), row.id)


ORDERS: dict[str, Callable[[Row], Any]] = {
    "worst": _worst,
    "best": _best,
    "name": lambda row: row.id,
    "status": lambda row: (STATUSES.index(row.status), _worst(row)),
}


@dataclass(frozen=True)
class Page:
    """Some of the rows that were wanted, and how many there are: `counts` by status, of all that pass the search."""

    rows: Sequence[Row]
    page: int
    pages: int
    total: int
    counts: Mapping[str, int]


def select(rows: Sequence[Row], wanted: Wanted) -> Page:
    """The page that is wanted. Raises NotFound where `wanted.show` is no study."""
    if wanted.show and all(row.id != wanted.show for row in rows):
        raise NotFound(f"there is no study {wanted.show[:80]!r} in the list: it was removed, or the link is wrong")
    fitting = [row for row in rows if wanted.fits(row)]
    chosen = [row for row in fitting if not wanted.statuses or row.status in wanted.statuses]
    chosen.sort(key=ORDERS[wanted.sort])
    place = next((n for n, row in enumerate(chosen) if row.id == wanted.show), None) if wanted.show else None
    pages = max(1, -(-len(chosen) // wanted.per_page))
    page = min(wanted.page, pages) if place is None else place // wanted.per_page + 1
    start = (page - 1) * wanted.per_page
    return Page(chosen[start : start + wanted.per_page], page, pages, len(chosen), Counter(r.status for r in fitting))
