"""What MONAI Label's engines load in a training: items that a course draws when asked for, and one look at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lib.finetuning.course import Course


class Items(Dataset):
    """The items of an epoch, drawn when asked for."""

    def __init__(self, course: Course, count: int) -> None:
        self._course, self._count = course, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._course.draw()
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


class OneItem(Dataset):
    """One item: the course asks all its questions at once."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index}


def apart(kind: type, batch: Mapping[str, Any]) -> list[Any]:
    """The items, of a course's `kind`, that the loader joined to a batch."""
    columns = (values if isinstance(values, list) else np.asarray(values) for values in batch.values())
    return [kind(*one) for one in zip(*columns, strict=True)]
