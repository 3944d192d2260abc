"""Which actor gets an item; with a stand-in for Ray, whose actors finish an item when the test says so."""

from types import SimpleNamespace
from typing import Any

from lib.cluster.host import Host
from lib.cluster.pool import DEPTH, Done, Pool


class FakeRay:
    """Actors of this process, each with a queue; `finish` does what waits first at one of them."""

    exceptions = SimpleNamespace(RayActorError=ConnectionError, RayTaskError=RuntimeError)

    def __init__(self) -> None:
        self.actors: list[Any] = []
        self.done: dict[Any, Any] = {}

    def remote(self, kind: type[Host]) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: self._actor(kind())))

    def _actor(self, host: Host) -> Any:
        queue: list[Any] = []

        def method(name: str) -> Any:
            def call(*arguments: Any) -> object:
                queue.append((ref := object(), getattr(host, name), arguments))
                return ref

            return SimpleNamespace(remote=call)

        actor = SimpleNamespace(queue=queue, **{name: method(name) for name in ("greet", "prepare", "work")})
        self.actors.append(actor)
        return actor

    def finish(self, number: int) -> None:
        ref, act, arguments = self.actors[number].queue.pop(0)
        self.done[ref] = act(*arguments)

    def put(self, value: Any) -> Any:
        return value

    def get(self, ref: Any) -> Any:
        return self.done[ref]

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref in self.done], []

    def kill(self, actor: Any) -> None:
        self.actors.remove(actor)


def make() -> Any:
    """What works in an actor."""
    return str.upper


def prepared(ray: FakeRay, size: int) -> Pool[str]:
    pool: Pool[str] = Pool(ray, make, size)
    for _ in ("greeting", "preparation"):
        for number in range(size):
            ray.finish(number)
        pool.wait(0)
    assert pool.prepared == size
    return pool


def waiting(ray: FakeRay) -> list[int]:
    return [len(actor.queue) for actor in ray.actors]


def test_an_actor_has_an_item_waiting_so_that_it_never_waits_itself():
    ray = FakeRay()
    pool = prepared(ray, 2)
    items = iter("abcdefgh")
    while pool.has_room(left=100):
        pool.submit(next(items))
    assert waiting(ray) == [DEPTH, DEPTH]


def test_the_last_items_go_to_whoever_is_idle_and_wait_behind_none():
    ray = FakeRay()
    pool = prepared(ray, 2)
    items = list("abcde")
    results = []
    while items or pool.busy > 1:  # the first item takes longer than all others
        while items and pool.has_room(left=len(items)):
            pool.submit(items.pop(0))
        ray.finish(1)
        results += [outcome.result for outcome in pool.wait(0) if isinstance(outcome, Done)]
    assert results == list("BCDE")
    ray.finish(0)
    assert [outcome.result for outcome in pool.wait(0)] == ["A"]
