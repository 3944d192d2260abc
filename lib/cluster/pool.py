"""Actors of a Ray cluster that work on items; one that dies costs only the items it had.

Every actor is asked first what it would compute with (`lib.cluster.identity`) and is given items only if that is what
this process would. It has at most `DEPTH` items, so that it never waits for the next one and memory stays bounded:
whoever has more items asks `has_room` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from lib.cluster.begun import BegunItem
from lib.cluster.connection import ClusterError
from lib.cluster.host import Host, Work
from lib.cluster.identity import Identity, own_identity

DEPTH = 2  # items at an actor: one that it works on, one that waits
MOST_DEATHS = 12  # of actors one after the other, with nothing done between them

Item = TypeVar("Item")


@dataclass(frozen=True)
class Done(Generic[Item]):
    """An item and what came of it."""

    item: Item
    result: Any


@dataclass(frozen=True)
class Killed(Generic[Item]):
    """An item whose actor died while it was at it."""

    item: Item
    reason: str


@dataclass(frozen=True)
class Unavailable(Generic[Item]):
    """An item that could not be worked on just now (`lib.cluster.host.Away`)."""

    item: Item
    reason: str


Outcome = Done[Item] | Killed[Item] | Unavailable[Item]


@dataclass(frozen=True)
class _Call:
    """An item at an actor, the number by which the actor notes it, and the reference to its answer."""

    number: int
    item: Any
    answer: Any


@dataclass
class _Seat:
    """A place for an actor."""

    actor: Any
    greeting: Any  # reference to what it says of itself; None once it was read
    ready: Any = None  # reference to its preparation; None once it is prepared
    where: str = "a worker"
    calls: deque[_Call] = field(default_factory=deque)  # in the order of work
    prepared: bool = False
    begun: BegunItem = field(default_factory=BegunItem)

    def pending(self) -> list[Any]:
        """What it is waited for."""
        return [ref for ref in (self.greeting, self.ready) if ref is not None] + [call.answer for call in self.calls]


class Pool(Generic[Item]):
    """So many actors.

    Args:
        ray: the connected module.
        make: picklable; makes in the actor what works on items: the dear part, so it travels once to each machine.
        size: number of actors.
        cpus, gpus: what each takes of the cluster.
        identity: what each must compute with.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Work],
        size: int,
        cpus: float = 1,
        gpus: float = 0,
        identity: Identity | None = None,
    ) -> None:
        self._ray, self._identity = ray, identity or own_identity()
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        self._actors = ray.remote(Host).options(**options)
        self._make = ray.put(make)
        self._deaths = 0
        self._again: deque[Item] = deque()  # were at an actor that another item killed
        self._numbers = count()
        self._seats = [self._seat() for _ in range(size)]

    @property
    def busy(self) -> int:
        """How many items are at actors."""
        return sum(len(seat.calls) for seat in self._seats) + len(self._again)

    @property
    def prepared(self) -> int:
        """How many actors work."""
        return sum(seat.prepared for seat in self._seats)

    def has_room(self, left: int | None = None) -> bool:
        """Whether an actor can take an item now.

        Args:
            left: items to come, where that is known: the last of them go to actors that are idle, because one that
                waits behind another keeps everybody waiting at the end.
        """
        depth = 1 if left is not None and left <= DEPTH * len(self._seats) else DEPTH
        return not self._again and any(seat.prepared and len(seat.calls) < depth for seat in self._seats)

    def submit(self, item: Item) -> None:
        """Give an item to the actor that has fewest; `has_room` must hold."""
        seat = min((seat for seat in self._seats if seat.prepared), key=lambda seat: len(seat.calls))
        number = next(self._numbers)
        seat.calls.append(_Call(number, item, seat.actor.work.remote(number, item)))

    def wait(self, seconds: float) -> list[Outcome[Item]]:
        """What became of items, as soon as that is known of one of them; empty after so many seconds.

        Raises:
            ClusterError: the workers are other ones than this process, or die before they do anything.
        """
        while self._again and any(seat.prepared and len(seat.calls) < DEPTH for seat in self._seats):
            self.submit(self._again.popleft())
        pending = [ref for seat in self._seats for ref in seat.pending()]
        ready, _ = self._ray.wait(pending, num_returns=1, timeout=seconds)
        if not ready:
            return []
        ready, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        known = set(ready)
        return [outcome for place in range(len(self._seats)) for outcome in self._look(place, known)]

    def close(self) -> None:
        """End the actors, whatever they are at."""
        for seat in self._seats:
            self._ray.kill(seat.actor)
        for seat in self._seats:
            seat.begun.remove()
        self._seats = []

    def _seat(self) -> _Seat:
        actor = self._actors.remote()
        return _Seat(actor, actor.greet.remote())

    def _look(self, place: int, ready: set[Any]) -> list[Outcome[Item]]:
        """What is known of one seat; a seat whose actor died gets another."""
        seat = self._seats[place]
        outcomes: list[Outcome[Item]] = []
        try:
            if seat.greeting in ready:
                identity, seat.where = self._ray.get(seat.greeting)
                self._check(identity, seat.where)
                seat.greeting = None
                seat.ready = seat.actor.prepare.remote(self._make, seat.begun)
            elif seat.ready in ready:
                self._ray.get(seat.ready)
                seat.ready, seat.prepared = None, True
            while seat.calls and seat.calls[0].answer in ready:
                item = seat.calls[0].item
                kind, result = self._ray.get(seat.calls[0].answer)
                seat.calls.popleft()
                self._deaths = 0
                outcomes.append(Done(item, result) if kind == "done" else Unavailable(item, result))
        except self._ray.exceptions.RayActorError as error:
            outcomes += self._replace(place, error)
        except self._ray.exceptions.RayTaskError as error:
            raise ClusterError(f"{seat.where} cannot work: {error.cause or error}") from error
        return outcomes

    def _replace(self, place: int, error: Exception) -> list[Outcome[Item]]:
        seat, self._seats[place] = self._seats[place], self._seat()
        self._deaths += 1
        reason = f"{seat.where} died: {_short(error)}"
        if self._deaths >= MOST_DEATHS:
            raise ClusterError(f"workers die before they do anything, the last one so: {reason}")
        begun = seat.begun.read()
        seat.begun.remove()
        # The first one where none was begun: it may not even arrive
        killer = next((call for call in seat.calls if call.number == begun), next(iter(seat.calls), None))
        self._again.extend(call.item for call in seat.calls if call is not killer)
        return [] if killer is None else [Killed(killer.item, reason)]

    def _check(self, identity: Identity, where: str) -> None:
        if differences := self._identity.differences(identity):
            raise ClusterError(f"the worker {where} is refused: {'; '.join(differences)}")


def _short(error: Exception) -> str:
    """Ray's account of a death in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "exit" in line.lower() or "memory" in line.lower() or "node" in line.lower()]
    return (causes or lines or [type(error).__name__])[0][:300]
