"""What comes from outside, read by pydantic models: of what does not fit, one sentence says what was allowed and given.

A field's description completes the sentence "KEY must be ..."; a validator that says more than that raises `ValueError`
with the whole rest of the sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

LONGEST = 80  # characters of a value that are given back
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # what pydantic calls a key that a model does not have

Model = TypeVar("Model", bound=BaseModel)


class ParseError(ValueError):
    """Values that a model refuses; the message says what is allowed and what was given."""


class Options(BaseModel):
    """Values that nobody changes; keys that are not named are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def given(self) -> dict[str, Any]:
        """What was said, as it was read; null says nothing."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class Part(Options):
    """Such values out of a request that holds others too."""

    model_config = ConfigDict(extra="ignore")


def parse(model: type[Model], values: Mapping[str, Any], what: str, before: str = "") -> Model:
    """Values as a model's object.

    Args:
        model: has a description for each of its fields.
        values: what was said.
        what: what all keys together are called.
        before: put before a key.

    Raises:
        ParseError: what does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParseError(problem(error, model.model_fields, what, before)) from error


def problem(error: ValidationError, fields: Mapping[str, FieldInfo], what: str, before: str = "") -> str:
    """What a model with such fields refused, in a sentence; see `parse`."""
    errors = error.errors(include_url=False)
    if unknown := [repr(one["loc"][-1]) for one in errors if one["type"] in UNKNOWN]:
        return f"{what} must be among {', '.join(fields)}; got {', '.join(unknown)}"
    first = errors[0]
    key = str(first["loc"][0]) if first["loc"] else what
    if first["type"] == "value_error":
        return f"{before}{key} {first['ctx']['error']}"
    field = next((one for name, one in fields.items() if key in (name, one.alias)), None)
    allowed = (field and field.description) or f"another value: {first['msg'][0].lower()}{first['msg'][1:]}"
    if first["type"] == "missing":
        return f"{what} must have {before}{key}, {allowed}"
    return f"{before}{key} must be {allowed}, got {shown(first['input'])}"


def shown(value: object) -> str:
    """A value as it is given back, within a length."""
    text = str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(value: object) -> object:
    """A list that may come as JSON text, or as nothing: for a `BeforeValidator`."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def chosen(value: object) -> object:
    """What is chosen of several: clients that choose nothing send the whole list back. For a `BeforeValidator`."""
    return value[0] if isinstance(value, list) and value else value


Count = Annotated[int, Field(ge=1, description="a whole number from 1 on")]
CountOrNone = Annotated[int, Field(ge=0, description="0, or a whole number from 1 on")]
Number = Annotated[float, Field(allow_inf_nan=False, description="a number")]
Share = Annotated[float, Field(ge=0, le=1, description="a share from 0 to 1")]
Switch = Annotated[bool, Field(description="true or false")]

# The same, and text, where nothing need be said
AnyCount = Annotated[int | None, Field(ge=1, description="a whole number from 1 on")]
AnySwitch = Annotated[bool | None, Field(description="true or false")]
AnyText = Annotated[str | None, Field(coerce_numbers_to_str=True, description="text")]
AnyChoice = Annotated[str | None, BeforeValidator(chosen), Field(description="one of the choices")]
