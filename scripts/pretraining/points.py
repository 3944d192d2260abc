"""Held-out Dice by what it cost: the rows of docs/training.jsonl, and those of a run's own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lib.networks.architectures import ONE_PROMPT
from lib.networks.checkpoints import load_network, read_architecture, read_provenance
from lib.parsing import Count, CountOrNone, Model, Options, ParseError, Part, Switch, parse
from scripts.pretraining.held_out import PER_SET
from scripts.pretraining.stages import Stage, stage_at

HELD_OUT = re.compile(r"held_out(?:_(\d+))?/mean")  # of one template, or of as many as the number says

Text = Annotated[str, Field(min_length=1, description="text")]
Hours = Annotated[float, Field(ge=0, allow_inf_nan=False, description="hours from 0 on")]
Percent = Annotated[float, Field(ge=0, le=100, description="a number from 0 to 100")]
Stages = Annotated[list[Stage], Field(description="a list of stages, each with size, episodes and steps")]
Names = Annotated[list[str], Field(description="a list of data sets")]


class PointError(ValueError):
    """A table or a run folder that holds no held-out Dice, or holds something else."""


class Point(Options):
    """One held-out score of a run, and what the network had cost until then.

    Attributes:
        network: configuration of One-Prompt, or `promptseg`.
        run: its name; of runs from one start, a letter tells them apart.
        steps: of this run; none of a mean of runs.
        queries, hours: of this run and of all of this network that it goes on from, each counted once; hours are those
            of one core.
        size: side of the held-out images in pixels.
        templates: of each query.
        dice: in percent, the mean over the flat data sets of the split `dev`, asked with random mask templates.
        pairs: queries of each of these data sets; only scores of the same pairs can be compared.
        data_sets: openly licensed ones that the run was trained on.
        source: where it is written.
        interpolated: queries or hours are a share of the run's.
        ships: the weights that ship, or the last score of what they are made of.
    """

    network: Text
    run: Text
    steps: CountOrNone
    queries: Count
    hours: Hours
    size: Count
    templates: Count
    dice: Percent
    pairs: Count
    data_sets: CountOrNone
    source: Text
    interpolated: Switch = False
    ships: Switch = False


class SavedRun(Part):
    """What the weights file of a run says of it."""

    network: Text = "oneprompt"
    stages: Stages
    steps: Count
    queries: Count
    hours: Hours
    datasets: Names


class Line(Part):
    """A line of a run's log; `rate` in queries a second, `held_out` by the number of templates."""

    step: Count
    rate: Annotated[float | None, Field(gt=0, alias="queries_per_second", description="a number above 0")] = None
    held_out: dict[int, Percent] = Field(default_factory=dict, description="numbers from 0 to 100")


@dataclass(frozen=True)
class RunLog:
    """Rates and held-out Dice of a run, both by step; `scores` by the number of templates, too."""

    rates: dict[int, float]
    scores: dict[int, dict[int, float]]


def read_points(path: Path) -> list[Point]:
    """The rows of a table. Raises PointError for a line that is none."""
    return [_parsed(Point, values, place) for place, values in _lines(path)]


def points_of_run(folder: Path) -> list[Point]:
    """The held-out scores of a run of `scripts.pretrain`, under way or ended, by its steps.

    Queries and hours are those that the weights file tells, shared out among the steps by the episodes of the stages
    and by the rates of the log.

    Raises:
        PointError: the folder has no log with held-out scores, or a foreign one.
        CheckpointError: its `ema.safetensors` cannot be used.
    """
    path, weights = folder / "log.jsonl", folder / "ema.safetensors"
    log = _read_log(path)
    if not log.scores or not log.rates:
        raise PointError(
            f"{path} must hold rates and held-out scores, which a run with --data writes every --log-every and "
            f"--validate-every steps; got {len(log.rates)} and {len(log.scores)}"
        )
    provenance = read_provenance(weights)
    saved = _parsed(SavedRun, provenance, str(weights))
    network = saved.network if read_architecture(weights) is not ONE_PROMPT else load_network(weights).config.name
    before = {key: sum(one.get(key, 0) for one in history(provenance)) for key in ("queries", "hours")}
    spent = _spent(saved, log.rates)
    return [
        Point(
            network=network,
            run=folder.resolve().name,
            steps=step,
            queries=round(before["queries"] + saved.queries * _episodes(saved, step) / _episodes(saved, saved.steps)),
            hours=round(before["hours"] + saved.hours * spent(step) / spent(saved.steps), 3),
            size=stage_at(saved.stages, step - 1).size,
            templates=templates,
            dice=round(dice, 1),
            pairs=PER_SET,
            data_sets=len(saved.datasets),
            source="its log",
            interpolated=step != saved.steps,
        )
        for step in sorted(log.scores)
        for templates, dice in sorted(log.scores[step].items())
    ]


def history(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenances that one goes on from, of the same network and each once, however many runs began with it."""
    network, seen, waiting = provenance.get("network", "oneprompt"), list[Mapping[str, Any]](), [provenance]
    while waiting:
        one = waiting.pop()
        parents = [*(one.get("parents") or []), one.get("parent")]  # early files name one `parent`
        new = [p for p in parents if p and p not in seen and p.get("network", "oneprompt") == network]
        seen += new
        waiting += new
    return seen


def _lines(path: Path) -> list[tuple[str, Any]]:
    try:
        texts = path.read_text().splitlines()
        return [(f"{path}, line {n}", json.loads(text)) for n, text in enumerate(texts, 1) if text.strip()]
    except (OSError, ValueError) as error:
        raise PointError(f"{path} must be a file of JSON lines: {error}") from error


def _read_log(path: Path) -> RunLog:
    """What a run wrote; of steps that it wrote twice, because it went on from a checkpoint, what came last."""
    log = RunLog({}, {})
    for place, values in _lines(path):
        line = _parsed(Line, _by_templates(values), place)
        if line.rate is not None:
            log.rates[line.step] = line.rate
        if line.held_out:
            log.scores.setdefault(line.step, {}).update(line.held_out)
    return log


def _by_templates(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    scores = {int(match[1] or 1): value for key, value in values.items() if (match := HELD_OUT.fullmatch(key))}
    return {**values, "held_out": scores} if scores else values


def _episodes(saved: SavedRun, steps: int) -> int:
    """Episodes of the first steps."""
    return sum(stage_at(saved.stages, step).episodes for step in range(steps))


def _spent(saved: SavedRun, rates: Mapping[int, float]) -> Callable[[int], float]:
    """How much time the first steps took, in a unit of its own: a rate is that of the steps since the one before."""
    ends = sorted(rates)
    windows = [(_episodes(saved, end) - _episodes(saved, begin)) / rates[end] for begin, end in pairwise([0, *ends])]
    return lambda step: float(np.interp(step, [0, *ends], np.cumsum([0, *windows])))


def _parsed(model: type[Model], values: Any, place: str) -> Model:
    try:
        return parse(model, values, place, f"{place}: ")
    except ParseError as error:
        raise PointError(str(error)) from error
