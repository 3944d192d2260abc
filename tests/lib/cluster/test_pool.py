"""Which actor gets an item; with a stand-in for Ray, whose actors finish an item when the test says so."""

from types import SimpleNamespace
from typing import Any

import pytest

from lib.cluster.host import Host
from lib.cluster.pool import DEPTH, Done, Killed, Pool


class FakeHead:
    """What the head of a cluster keeps by key."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def _internal_kv_put(self, key: str, value: str, overwrite: bool, namespace: str) -> None:
        self.values[key] = value.encode()

    def _internal_kv_get(self, key: str, namespace: str) -> bytes | None:
        return self.values.get(key)

    def _internal_kv_del(self, key: str, namespace: str) -> None:
        self.values.pop(key, None)


class FakeRay:
    """Actors of this process, each with a queue; `finish` does what waits first at one of them."""

    exceptions = SimpleNamespace(RayActorError=ConnectionError, RayTaskError=RuntimeError)

    def __init__(self) -> None:
        self.actors: list[Any] = []
        self.done: dict[Any, Any] = {}
        self.experimental = SimpleNamespace(internal_kv=FakeHead())

    def remote(self, kind: type[Host]) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: self._actor(kind())))

    def _actor(self, host: Host) -> Any:
        queue: list[Any] = []

        def method(name: str) -> Any:
            def call(*arguments: Any) -> object:
                queue.append((ref := object(), getattr(host, name), arguments))
                return ref

            return SimpleNamespace(remote=call)

        actor = SimpleNamespace(queue=queue, lost=[], **{name: method(name) for name in ("greet", "prepare", "work")})
        self.actors.append(actor)
        return actor

    def finish(self, number: int) -> None:
        ref, act, arguments = self.actors[number].queue.pop(0)
        self.done[ref] = act(*arguments)

    def lose(self, number: int) -> None:
        """Do what waits first at an actor, whose answer does not arrive."""
        actor = self.actors[number]
        ref, act, arguments = actor.queue.pop(0)
        act(*arguments)
        actor.lost.append(ref)

    def die(self, number: int) -> None:
        """End an actor: all that it has not answered is an error."""
        actor = self.actors.pop(number)
        for ref in [*actor.lost, *(ref for ref, _, _ in actor.queue)]:
            self.done[ref] = ConnectionError("signal 9")

    def put(self, value: Any) -> Any:
        return value

    def get(self, ref: Any) -> Any:
        if isinstance(result := self.done[ref], Exception):
            raise result
        return result

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref in self.done], []

    def kill(self, actor: Any) -> None:
        self.actors.remove(actor)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """What actors and pools find as the module `ray`."""
    ray = FakeRay()
    monkeypatch.setattr("lib.cluster.begun.load_ray", lambda: ray)
    return ray


def make() -> Any:
    """What works in an actor."""
    return str.upper


def prepared(ray: FakeRay, size: int) -> Pool[str]:
    pool: Pool[str] = Pool(ray, make, size)
    prepare(ray, pool, size)
    return pool


def prepare(ray: FakeRay, pool: Pool[str], size: int) -> None:
    for _ in ("greeting", "preparation"):
        for number in range(size):
            ray.finish(number)
        pool.wait(0)
    assert pool.prepared == size


def waiting(ray: FakeRay) -> list[int]:
    return [len(actor.queue) for actor in ray.actors]


def test_an_actor_has_an_item_waiting_so_that_it_never_waits_itself(ray):
    pool = prepared(ray, 2)
    items = iter("abcdefgh")
    while pool.has_room(left=100):
        pool.submit(next(items))
    assert waiting(ray) == [DEPTH, DEPTH]


def test_the_last_items_go_to_whoever_is_idle_and_wait_behind_none(ray):
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


def test_a_death_is_blamed_on_the_item_at_work_also_where_the_answer_before_it_is_lost(ray):
    pool = prepared(ray, 1)
    pool.submit("a")
    pool.submit("killer")
    ray.lose(0)
    ray.lose(0)
    ray.die(0)
    [killed] = pool.wait(0)
    assert isinstance(killed, Killed)
    assert killed.item == "killer"
    prepare(ray, pool, 1)
    pool.wait(0)
    ray.finish(0)
    assert [outcome.result for outcome in pool.wait(0)] == ["A"]


def test_an_item_that_kills_before_it_begins_is_blamed_too(ray):
    pool = prepared(ray, 1)
    pool.submit("killer")
    pool.submit("b")
    ray.die(0)
    assert [outcome.item for outcome in pool.wait(0)] == ["killer"]


def test_nothing_is_left_at_the_head_of_the_cluster(ray):
    pool = prepared(ray, 2)
    for item in "abc":
        pool.submit(item)
    ray.lose(0)
    ray.finish(1)
    ray.die(0)
    pool.wait(0)
    assert ray.experimental.internal_kv.values
    pool.close()
    assert ray.experimental.internal_kv.values == {}
