"""The episodes of a run, step by step, drawn here or by worker processes; the same ones either way.

Every step draws from (seed, step, rank), so that it does not matter who draws it or when, and a run that goes on from a
checkpoint meets the episodes that it would have met.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from lib.learning.episodes import Episode, EpisodeSource, Mix, RealTasks
from scripts.pretraining.stages import Stage, stage_at

AHEAD = 2  # steps that each worker has waiting


@dataclass(frozen=True)
class Batch:
    """What one step needs.

    Attributes:
        episodes: all of one size.
        rng: draws the prompts, and goes on where the drawing of the episodes ended.
        size: side of the images in pixels.
    """

    episodes: list[Episode]
    rng: np.random.Generator
    size: int


@dataclass(frozen=True)
class Recipe:
    """All that says which episodes a run draws."""

    tasks: Sequence[RealTasks]
    stages: list[Stage]
    queries: int
    mix: Mix
    seed: int
    rank: int


class Drawer:
    """Draws the batch of any step."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._sources = {
            stage.size: EpisodeSource(recipe.tasks, stage.size, recipe.queries, recipe.mix, recipe.seed)
            for stage in recipe.stages
        }

    def draw(self, step: int) -> Batch:
        stage = stage_at(self._recipe.stages, step)
        rng = np.random.default_rng((self._recipe.seed, step, self._recipe.rank))
        source = self._sources[stage.size]
        return Batch([source.draw(rng, step) for _ in range(stage.episodes)], rng, stage.size)


def batches(recipe: Recipe, first: int, end: int, workers: int) -> Generator[Batch, None, None]:
    """The batches of the steps from `first` to before `end`, in order; without workers drawn when asked for."""
    if not workers:
        drawer = Drawer(recipe)
        yield from (drawer.draw(step) for step in range(first, end))
        return
    # spawned, because a fork of a process with threads and a GPU may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (recipe,))
    try:
        waiting: deque[Future[Batch]] = deque()
        for step in range(first, end):
            waiting.append(pool.submit(_draw, step))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_drawer: Drawer | None = None  # of a worker process


def _begin(recipe: Recipe) -> None:
    global _drawer
    torch.set_num_threads(1)
    _drawer = Drawer(recipe)


def _draw(step: int) -> Batch:
    assert _drawer is not None
    return _drawer.draw(step)
