"""One event: the study list changed. Who does something then listens to it; who changes something announces it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """What happened: a decision of a person about labels, or news that nobody asked for (files, weights).

    Attributes:
        decided: a person submitted, accepted, rejected or excluded something.
        saved: the study whose final label was saved with that, or None.
    """

    decided: bool
    saved: str | None = None


class Changes:
    """The event; listeners are called in the announcing thread, in the order in which they came.

    News can be announced under the datastore's lock: a listener says at once that there is something to do, and leaves
    the doing to a thread of its own.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[Change], object]] = []

    def listen(self, listener: Callable[[Change], object]) -> None:
        """Call `listener` with every change from now on."""
        self._listeners.append(listener)

    def label_saved(self, image_id: str) -> None:
        """A study has a new final label."""
        self._announce(Change(decided=True, saved=image_id))

    def decided(self) -> None:
        """A person decided what serves as a template, or took a decision back."""
        self._announce(Change(decided=True))

    def noticed(self) -> None:
        """Other images, labels or weights are there."""
        self._announce(Change(decided=False))

    def _announce(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)
