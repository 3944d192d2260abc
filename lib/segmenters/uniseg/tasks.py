"""What a UniSeg model was trained for: its tasks, each with structures, channels, spacing and normalisation.

The network knows a task by its index; everything else that a task is stands here and travels with the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOUNSFIELD = -200.0  # only CT has lower values in practice: nothing but air and lung is there


class TaskError(ValueError):
    """A task or structure that the model does not know, or an image that none of its tasks takes."""


@dataclass(frozen=True)
class Window:
    """Grey values of one scale for all images: clipped to `low`..`high`, then less `mean`, by `deviation`."""

    low: float
    high: float
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.deviation > 0:
            raise ValueError(f"a window needs low < high and a deviation above 0, got {dataclasses.asdict(self)}")


@dataclass(frozen=True)
class Channel:
    """One channel of an image.

    Attributes:
        modality: as in DICOM or the name of a sequence: CT, MR, PT, FLAIR ...
        window: how it is normalised; None for zero mean and unit variance of each image.
    """

    modality: str
    window: Window | None = None


@dataclass(frozen=True)
class Task:
    """One task of a model.

    Attributes:
        name: unique in its model.
        structures: names of the foreground classes, in the order of the network's outputs from 1.
        channels: of the images, in their order.
        spacing: mm along (D, H, W) that the network works at.
        depth: patient axis that D runs along: 0 right, 1 anterior, 2 superior. H and W are the other two, the later
            one first; a volume with thick slices has D across them.
    """

    name: str
    structures: tuple[str, ...]
    channels: tuple[Channel, ...]
    spacing: tuple[float, float, float]
    depth: int = 2

    def __post_init__(self) -> None:
        if self.depth not in (0, 1, 2):
            raise ValueError(f"depth must be 0, 1 or 2, got {self.depth!r}")
        if not self.name or not self.structures or not self.channels or not min(self.spacing) > 0:
            raise ValueError(f"a task needs a name, structures, channels and a spacing above 0 mm, got {self}")
        if len(set(self.structures)) < len(self.structures):
            raise ValueError(f"the structures of {self.name} must differ, got {', '.join(self.structures)}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Build from `as_dict`'s output. Raises ValueError, TypeError, KeyError for anything else."""
        channels = tuple(
            Channel(str(own["modality"]), Window(**own["window"]) if own["window"] else None)
            for own in values["channels"]
        )
        depth, height, width = map(float, values["spacing"])
        structures = tuple(map(str, values["structures"]))
        return cls(str(values["name"]), structures, channels, (depth, height, width), int(values["depth"]))


def named(tasks: Sequence[Task], names: Collection[str]) -> list[int]:
    """Indices of the tasks with some names, or with structures of these names. Raises TaskError for unknown ones."""
    known = {task.name for task in tasks} | {structure for task in tasks for structure in task.structures}
    if unknown := sorted(set(names) - known):
        raise TaskError(
            f"UniSeg does not know {', '.join(unknown)}: its tasks are {_listed(tasks)}; a further one is learnt by "
            "training on studies that show it"
        )
    return [index for index, task in enumerate(tasks) if {task.name, *task.structures} & set(names)]


def fitting(tasks: Sequence[Task], channels: int, modality: str | None) -> list[int]:
    """Indices of the tasks that take an image.

    Args:
        channels: number of channels of the image.
        modality: of its first channel, as in DICOM or as `guess_modality` says; None for any.

    Raises:
        TaskError: there is none.
    """
    suitable = [
        index
        for index, task in enumerate(tasks)
        if len(task.channels) == channels and (modality is None or _alike(task.channels[0].modality, modality))
    ]
    if not suitable:
        raise TaskError(
            f"no task of UniSeg takes an image of {channels} {'channel' if channels == 1 else 'channels'}"
            f"{f' of modality {modality}' if modality else ''}: its tasks are {_listed(tasks)}"
        )
    return suitable


def check_channels(tasks: Sequence[Task], channels: int) -> None:
    """Raises TaskError where a task takes another number of channels than an image has."""
    for task in tasks:
        if len(task.channels) != channels:
            needed = ", ".join(channel.modality for channel in task.channels)
            raise TaskError(
                f"{task.name} takes {len(task.channels)} channels ({needed}), got {channels}: give all series of the "
                "study on one grid, or one 4-D NIfTI whose fourth axis is the channel"
            )


def guess_modality(lowest: float, tasks: Sequence[Task]) -> str | None:
    """CT where the lowest grey value of an image can be nothing else, another modality of the tasks where it cannot.

    None where the grey values do not decide.
    """
    if lowest < HOUNSFIELD:
        return "CT"
    others = {task.channels[0].modality for task in tasks} - {"CT"}
    return others.pop() if len(others) == 1 else None


def _alike(one: str, other: str) -> bool:
    """Whether two names of modalities may mean one: MR takes in its sequences, and PET is called PT in DICOM."""
    families = [{"MR", "MRI", "T1", "T1CE", "T2", "FLAIR"}, {"PT", "PET"}]
    both = {one.upper(), other.upper()}
    return len(both) == 1 or any(both <= family for family in families)


def _listed(tasks: Sequence[Task]) -> str:
    return "; ".join(
        f"{task.name} ({', '.join(task.structures)}; {'+'.join(c.modality for c in task.channels)})" for task in tasks
    )
