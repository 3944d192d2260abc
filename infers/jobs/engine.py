"""Where the background job's studies are segmented: in this process, or by workers of a Ray cluster.

Either way this process reads the images, chooses templates and stores masks, so that the datastore stays the only store
and the job's rules are the same. Interactive requests never leave this process.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from threading import Lock, Thread
from typing import Any, Protocol

from cachetools import LRUCache

from infers.serving.priority_lock import PriorityLock
from lib.cluster.calls import Calls
from lib.cluster.connection import cluster
from lib.cluster.pool import Pool
from lib.cluster.segmenting import Recipe, SegmentingWorker, StudyJob
from lib.imaging.image import Image
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.contract import Prediction, Segment, Segmenter

logger = logging.getLogger(__name__)

TEMPLATES = 64  # references that keep templates in the cluster


class Engine(Protocol):
    """Where studies are segmented."""

    @property
    def width(self) -> int:
        """How many studies at once. Raises ClusterError where that cannot be known."""

    def submit(self, act: Callable[[], str | None]) -> Future[str | None]:
        """Do what one study needs, from reading to storing."""

    def segment(self, local: Segmenter) -> Segment:
        """What segments in place of this process's model for the job; it takes its turns by itself."""


class LocalEngine:
    """This process, one study after the other, when nobody waits for an answer.

    Args:
        priority_lock: turns at the network.
    """

    width = 1

    def __init__(self, priority_lock: PriorityLock) -> None:
        self._priority_lock = priority_lock

    def submit(self, act: Callable[[], str | None]) -> Future[str | None]:
        """Done when it returns."""
        future: Future[str | None] = Future()
        _settle(future, act)
        return future

    def segment(self, local: Segmenter) -> Segment:
        """By the model itself, in its turn behind people."""

        def in_turn(
            image: Image,
            templates: Sequence[Template],
            labels: Mapping[str, int],
            *,
            control: Control = Control(),
        ) -> Prediction:
            with self._priority_lock.background():
                return local.segment(image, templates, labels, control=control)

        return in_turn


class RayEngine:
    """Workers of a Ray cluster, as many studies at once as it has room for.

    The cluster is joined when the job first needs it, and anew after it was lost; until then the job says why it waits.

    Args:
        address: ray://HOST:PORT of the cluster's head. Ray ends a process that is joined in any other way when the head
            ends, and a server must not.
        priority_lock: turns at the network, for models that stay in this process.
        recipe: what makes a model elsewhere; None for one that stays here.
    """

    def __init__(self, address: str, priority_lock: PriorityLock, recipe: Callable[[Segmenter], Recipe | None]) -> None:
        self._address, self._local, self._recipe = address, LocalEngine(priority_lock), recipe
        self._lock = Lock()
        self._connection = ExitStack()
        self._workers: _Workers | None = None
        self._last: tuple[str, Recipe | None] | None = None  # fingerprint of a model, its recipe

    @property
    def width(self) -> int:
        """A study for each worker, and as many that are read or stored meanwhile. Raises ClusterError."""
        return 2 * self._joined().size

    def submit(self, act: Callable[[], str | None]) -> Future[str | None]:
        """In a thread of its own, which no end of the server waits for."""
        future: Future[str | None] = Future()
        Thread(target=_settle, args=(future, act), name="job", daemon=True).start()
        return future

    def segment(self, local: Segmenter) -> Segment:
        """By the cluster's workers, where the model can be made there."""
        with self._lock:
            if self._last is None or self._last[0] != local.fingerprint:
                self._last = (local.fingerprint, self._recipe(local))
            recipe = self._last[1]
        return self._local.segment(local) if recipe is None else partial(self._joined().segment, recipe)

    def close(self) -> None:
        """Leave the cluster."""
        with self._lock:
            self._connection.close()
            self._workers = None

    def _joined(self) -> _Workers:
        with self._lock:
            if self._workers is None or not self._workers.calls.alive:
                self._connection.close()
                ray = self._connection.enter_context(cluster(self._address))
                self._workers = _Workers(ray)
                self._connection.callback(self._workers.close)
                logger.info("segments with %d workers of the Ray cluster at %s", self._workers.size, self._address)
            return self._workers


def engine_at(address: str | None, priority_lock: PriorityLock, recipe: Callable[[Segmenter], Recipe | None]) -> Engine:
    """The engine of a setting: this process where no address is given."""
    return LocalEngine(priority_lock) if address is None else RayEngine(address, priority_lock, recipe)


def _settle(future: Future[str | None], act: Callable[[], str | None]) -> None:
    try:
        future.set_result(act())
    except Exception as error:
        future.set_exception(error)


class _Workers:
    """The actors of one connection."""

    def __init__(self, ray: Any) -> None:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.ray, self.size = ray, gpus or max(1, int(resources.get("CPU", 1)))
        self.calls = Calls(Pool(ray, SegmentingWorker, self.size, 1, 1 if gpus else 0))
        self._numbers = itertools.count()
        self._references: LRUCache[str, Any] = LRUCache(TEMPLATES)
        self._lock = Lock()

    def segment(
        self,
        recipe: Recipe,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
    ) -> Prediction:
        """See `Segmenter.segment`."""
        references = [(template.checksum, self._reference(template.checksum, template)) for template in templates]
        made_of = (recipe.fingerprint, self._reference(recipe.fingerprint, recipe))
        with self._lock:
            number = next(self._numbers)
        prediction: Prediction = self.calls.call(StudyJob(number, image, references, dict(labels), made_of), control)
        return prediction

    def close(self) -> None:
        self.calls.close()

    def _reference(self, key: str, content: Any) -> Any:
        """To something in the cluster; what was sent once is not sent again."""
        with self._lock:
            if key not in self._references:
                try:
                    self._references[key] = self.ray.put(content)
                except (ConnectionError, self.ray.exceptions.RayError) as error:
                    raise self.calls.abandon(error) from error
            return self._references[key]
