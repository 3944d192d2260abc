"""What is recorded about a label: who made it and how, and what people decided about it.

Inside the app these are objects. They are JSON only where the datastore keeps them (`infers/store/sidecars.py`, MONAI
Label's index) and where clients read them, and what is there is written back whole: notes of other programs too. What
a client may say of a label is a `Statement`; every other key of a record is this app's to write, so that a client that
sends a record back as it got it has decided nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from monailabel.interfaces.datastore import DefaultLabelTag

from lib.quality.estimate import Quality, read_features, read_qualities

FINAL, AUTOMATIC = DefaultLabelTag.FINAL.value, DefaultLabelTag.ORIGINAL.value
WITHDRAWN = "withdrawn"  # tag of an accepted label that was taken back and is kept nowhere else
PROMPTED = "prompted"  # tag of the answer to the prompts of a study that is prompted and not painted
FORMER = "former"  # tag of a person's label that another person replaced: the last such one is kept

ON_BOARD = "review board"  # how a label was accepted: an automatic mask, by a person who looked at it
AS_RESULT = "interactive result"  # how a label was accepted: the answer to a person's prompts
FIRST_MODEL = "oneprompt"  # made every mask whose record names no model


def _key(key: str) -> dict[str, str]:
    """Metadata of a field that a record's JSON has under this key."""
    return {"key": key}


@dataclass(frozen=True)
class Provenance:
    """What made a mask, and what that says about it.

    Attributes:
        model: registered name of the model.
        fingerprint: of everything that the mask was made with; it is up to date while it would get the same now.
        template_fingerprint: of the templates and structures alone, without the weights.
        image_stamp: of the image that the mask was made from; empty where that is not known.
        templates: ids of the studies that served as templates.
        label_names: {structure: value}, one for every value up to the largest that was wanted.
        structures: {structure: value} of those that the mask shows; None in records without.
        details: all other JSON: weights, prompt types, predicted quality and its features.
    """

    model: str
    fingerprint: str = field(default="", metadata=_key("key"))
    template_fingerprint: str = field(default="", metadata=_key("basis"))
    image_stamp: str = field(default="", metadata=_key("image_stamp"))
    templates: tuple[str, ...] = field(default=(), metadata=_key("templates"))
    label_names: Mapping[str, int] = field(default_factory=dict, metadata=_key("label_names"))
    structures: Mapping[str, int] | None = field(default=None, metadata=_key("structures"))
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, params: Mapping[str, Any], model: str | None = None) -> Provenance:
        """What a record holds, or a prediction says; it may come from another version of this app.

        Args:
            params: the JSON.
            model: what is said of the model elsewhere; by default what `params` says.
        """
        return cls(
            model or _text(params.get("model")) or FIRST_MODEL,
            fingerprint=_text(params.get("key")) or "",
            template_fingerprint=_text(params.get("basis")) or "",
            image_stamp=_text(params.get("image_stamp")) or "",
            templates=_texts(params.get("templates")),
            label_names=_values(params.get("label_names")) or {},
            structures=_values(params.get("structures")),
            details={key: value for key, value in params.items() if key not in {*_PROVENANCE_KEYS, "model"}},
        )

    def to_json(self) -> dict[str, Any]:
        """As it is recorded, without the model's name."""
        typed = {key: getattr(self, attribute) for key, attribute in _PROVENANCE_KEYS.items()}
        # An empty `structures` says that the mask is empty; of the others an empty one says nothing
        given = {key: value for key, value in typed.items() if value or (key == "structures" and value is not None)}
        return {**self.details, **{key: _plain(value) for key, value in given.items()}, "templates": [*self.templates]}

    @property
    def names(self) -> Mapping[str, int]:
        """{structure: value} of those that the mask shows, or may show where that is not recorded."""
        return self.label_names if self.structures is None else self.structures

    @cached_property
    def quality(self) -> dict[str, Quality]:
        """What was expected of each structure's mask when it was made."""
        return read_qualities(self.details)

    @property
    def features(self) -> dict[str, dict[str, float]]:
        """What that rests on."""
        return read_features(self.details)

    @property
    def most_weight(self) -> str:
        """Id of the template that counted more than all others together, over all structures; empty for none."""
        total: Counter[str] = Counter()
        by_structure = self.details.get("template_weights")
        for weights in by_structure.values() if isinstance(by_structure, Mapping) else ():
            known = weights.items() if isinstance(weights, Mapping) else ()
            total.update({str(id): weight for id, weight in known if isinstance(weight, float)})
        return next((id for id, weight in total.items() if 2 * weight > sum(total.values())), "")

    @property
    def weights(self) -> str | None:
        """Hash of the weights."""
        return _text(self.details.get("weights"))


_PROVENANCE_KEYS = {entry.metadata["key"]: entry.name for entry in fields(Provenance) if "key" in entry.metadata}


@dataclass(frozen=True)
class Rejection:
    """That a person found an automatic mask wrong: who, and when, in seconds since the epoch."""

    author: str | None = None
    at: int | None = None


@dataclass(frozen=True)
class StructureScore:
    """How good an automatic mask was: Dice (0 to 1) and mean surface distance in mm."""

    dice: float
    surface_mm: float


@dataclass(frozen=True)
class Statement:
    """What a client says of a label: the names of its structures, and whatever else it likes to note.

    Attributes:
        label_info: as clients send it, a list of {"name", "idx"}; see `infers.names.names_by_value`.
        label_names: {structure: value}.
        client_id: the client's name for itself.
        notes: everything else, kept as it came.
    """

    label_info: Any = field(default=None, metadata=_key("label_info"))
    label_names: Any = field(default=None, metadata=_key("label_names"))
    client_id: Any = field(default=None, metadata=_key("client_id"))
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], without: Collection[str] = ()) -> Statement:
        """The part of a record, or of what a client sent, that clients may say; `without` some of its keys."""
        typed = {*_STATEMENT_KEYS, *_OWN_KEYS, *without}
        notes = {key: value for key, value in data.items() if key not in typed}
        return cls(**{attribute: data.get(key) for key, attribute in _STATEMENT_KEYS.items()}, notes=notes)

    def to_json(self) -> dict[str, Any]:
        """As it is recorded."""
        return {**self.notes, **self.naming}

    @property
    def naming(self) -> dict[str, Any]:
        """What names the structures, as `infers.names.names_by_value` reads it."""
        typed = {key: getattr(self, attribute) for key, attribute in _STATEMENT_KEYS.items()}
        return {key: value for key, value in typed.items() if value is not None}


_STATEMENT_KEYS = {entry.metadata["key"]: entry.name for entry in fields(Statement) if "key" in entry.metadata}


@dataclass(frozen=True)
class LabelRecord:
    """Everything that is recorded about one label.

    Attributes:
        statement: what the client said that submitted it.
        author: who submitted or accepted it.
        structures: {structure: value} as found in a final label when it was saved; None where nobody looked.
        prompts: of a study that is prompted and not painted: the prompts, as `infers.prompts` reads them.
        accepted: how a final label came to be one without being submitted (`ON_BOARD`, `AS_RESULT`), else None.
        template: False for a final label that a person wants kept out of the template bank.
        provenance: what made an automatic mask, or the mask that was accepted; None for a person's own label.
        rejected: who found an automatic mask wrong; None where nobody did.
        score: {structure: score} of an automatic mask against the label that a person submitted.
        saved: when, in seconds since the epoch.
        file: name of the label's file.
        dicom_seg_seen: segmentations of the DICOMweb server that a final label is newer than, its own included.
        dicom_seg_problem: why a final label is not on that server.
    """

    statement: Statement = Statement()
    author: str | None = field(default=None, metadata=_key("user"))
    structures: Mapping[str, int] | None = field(default=None, metadata=_key("structures"))
    prompts: Mapping[str, Any] | None = field(default=None, metadata=_key("prompts"))
    accepted: str | None = field(default=None, metadata=_key("accepted"))
    template: bool = field(default=True, metadata=_key("template"))
    provenance: Provenance | None = field(default=None, metadata=_key("provenance"))
    rejected: Rejection | None = field(default=None, metadata=_key("rejected"))
    score: Mapping[str, StructureScore] | None = field(default=None, metadata=_key("score"))
    saved: int | None = field(default=None, metadata=_key("ts"))
    file: str | None = field(default=None, metadata=_key("name"))
    dicom_seg_seen: tuple[str, ...] = field(default=(), metadata=_key("dicom_seg_seen"))
    dicom_seg_problem: str | None = field(default=None, metadata=_key("dicom_seg_problem"))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelRecord:
        """What the datastore holds. A value of a form that no version wrote counts as nothing."""
        provenance = _provenance(data)
        return cls(
            statement=Statement.from_json(data, without=("model",) if provenance else ()),
            author=_text(data.get("user")),
            structures=_values(data.get("structures")),
            prompts=prompts if isinstance(prompts := data.get("prompts"), Mapping) else None,
            accepted=_text(data.get("accepted")),
            template=data.get("template") is not False,
            provenance=provenance,
            rejected=_rejection(data.get("rejected")),
            score=_score(data.get("score")),
            saved=_whole(data.get("ts")),
            file=_text(data.get("name")),
            dicom_seg_seen=_texts(data.get("dicom_seg_seen")),
            dicom_seg_problem=_text(data.get("dicom_seg_problem")),
        )

    def to_json(self) -> dict[str, Any]:
        """As the datastore keeps it and clients read it."""
        typed = {key: getattr(self, attribute) for key, attribute in _RECORD_KEYS.items() if key != "provenance"}
        given = {key: _plain(value) for key, value in typed.items() if value is not None and value != ()}
        if self.template:
            del given["template"]
        if self.provenance and self.accepted:
            given["provenance"] = {**self.provenance.to_json(), "model": self.provenance.model}
        elif self.provenance:  # where 3D Slicer looks for the names of a stored mask
            given |= {"model": self.provenance.model, "params": self.provenance.to_json()}
        return {**self.statement.to_json(), **given}

    @property
    def naming(self) -> dict[str, Any]:
        """All that names the structures, and prompts them, as JSON: other names or prompts make it another template."""
        parts = {"structures": self.structures, "prompts": self.prompts}
        return {**self.statement.naming, **{key: dict(value) for key, value in parts.items() if value is not None}}

    @property
    def inferred(self) -> bool:
        """Whether it says that a model made the label and nobody accepted it."""
        return self.submitted and (self.provenance is not None or "model" in self.statement.notes)

    @property
    def submitted(self) -> bool:
        """Whether a final label was submitted by a person, not accepted."""
        return self.accepted is None

    @property
    def manually_annotated(self) -> bool:
        """Whether a person drew, prompted or corrected it: all but the automatic masks that were accepted."""
        return self.accepted != ON_BOARD

    def made_by(self, models: Collection[str]) -> Provenance | None:
        """The provenance of an automatic mask if one of these models made it; None: it is somebody else's."""
        made = self.provenance
        return made if made is not None and self.accepted is None and made.model in models else None

    def described(self, statement: Statement, author: str | None) -> LabelRecord:
        """The same with what a client says of it now, on top of what was said before."""
        both = Statement.from_json({**self.statement.to_json(), **statement.to_json()})
        return replace(self, statement=both, author=author or self.author)


_RECORD_KEYS = {entry.metadata["key"]: entry.name for entry in fields(LabelRecord) if "key" in entry.metadata}
_OWN_KEYS = frozenset(_RECORD_KEYS) | {"params"}  # "params" is what makes a mask one of a model's


def _provenance(data: Mapping[str, Any]) -> Provenance | None:
    if "accepted" in data:
        made = data.get("provenance")
        if not isinstance(made, Mapping):
            return None
        rest = {key: value for key, value in made.items() if key != "model"}
        return Provenance.from_json(rest, _text(made.get("model")))
    model, params = _text(data.get("model")), data.get("params")
    return Provenance.from_json(params, model) if model and isinstance(params, Mapping) else None


def _rejection(value: Any) -> Rejection | None:
    return (
        Rejection(_text(value.get("user")), _whole(value.get("ts"))) if isinstance(value, Mapping) and value else None
    )


def _score(value: Any) -> dict[str, StructureScore] | None:
    if not isinstance(value, Mapping):
        return None
    return {
        str(name): StructureScore(float(one["dice"]), float(one["surface_mm"]))
        for name, one in value.items()
        if isinstance(one, Mapping) and all(isinstance(one.get(key), int | float) for key in ("dice", "surface_mm"))
    }


def _plain(value: Any) -> Any:
    """A field's value as JSON."""
    if isinstance(value, Rejection):
        return {"user": value.author, "ts": value.at}
    if isinstance(value, StructureScore):
        return {"dice": value.dice, "surface_mm": value.surface_mm}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _values(value: Any) -> dict[str, int] | None:
    if not isinstance(value, Mapping):
        return None
    return {str(name): int(index) for name, index in value.items() if isinstance(index, int)}
