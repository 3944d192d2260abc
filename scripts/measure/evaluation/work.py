"""What an evaluation does, cut into units that are finished as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from lib.imaging.prompts import PromptType
from scripts.measure.evaluation.cases import CaseFolder
from scripts.measure.evaluation.methods import ClickMethod, TemplateMethod
from scripts.measure.evaluation.panel import SLOW, Panel
from scripts.measure.evaluation.plan import Settings, Task, tasks_of
from scripts.measure.evaluation.records import click_records, template_records
from scripts.measure.evaluation.segmenters import EVERY_PROMPT
from scripts.measure.evaluation.store import Record

CLICKS = "clicks"
PROMPT_KINDS = (*(kind.value for kind in EVERY_PROMPT), CLICKS)


@dataclass(frozen=True)
class Unit:
    """One task, or a part of it, by one method, with one kind of prompt on the templates or with clicks.

    Attributes:
        name: for people.
        prompt_kind: kind of prompt on the templates, or `CLICKS`.
        key: everything that its records depend on.
        slow: done after everything that is not.
        make: does the work.
    """

    name: str
    prompt_kind: str
    key: str
    slow: bool
    make: Callable[[], Iterable[Record]]


def units_of(folder: CaseFolder, methods: Panel, settings: Settings, source: str) -> tuple[list[Unit], dict[str, str]]:
    """All work on a data set, and the structures that cannot be asked for with the reasons why.

    Args:
        source: fingerprint of the code, see `store.source_fingerprint`.
    """
    tasks, refused = tasks_of(folder, settings)
    units = []
    for task in tasks:
        where = f"{folder.name} / " + ", ".join(folder.dataset.labels[value] for value in task.values)
        work: list[tuple[TemplateMethod | ClickMethod, str, str, Callable[[], Iterable[Record]]]] = [
            (method, kind.value, f"{kind.value}, {name}", partial(template_records, folder, part, method, kind))
            for method in methods.by_template
            for kind in method.prompts
            for name, part in _parts(task, method, kind, folder.dataset.dims)
        ]
        work += [
            (clicker, CLICKS, CLICKS, partial(click_records, folder, task, clicker, settings))
            for clicker in methods.by_clicks
        ]
        for method, prompt_kind, what, make in work:
            depends = [source, folder.fingerprint, folder.name, task.values, method.name, method.fingerprint, what]
            key = json.dumps([*depends, asdict(settings)])
            units.append(Unit(f"{where}: {method.name}, {what}", prompt_kind, key, method.name in SLOW, make))
    return units, {f"{folder.name} / {labels}": reason for labels, reason in refused.items()}


def _parts(task: Task, method: TemplateMethod, kind: PromptType, dims: int) -> Iterator[tuple[str, Task]]:
    """A task's questions as they are asked at once.

    On images all together, because each takes a moment. On volumes every question is minutes of work of its own, so
    they are split by the number of templates, and several are asked with masks only.
    """
    sizes = [n for n in dict.fromkeys(question.wanted for question in task.questions) if n <= method.most_templates]
    if dims == 2:
        yield _named(sizes), _with(task, sizes)
        return
    for size in sizes:
        if size == 1 or kind is PromptType.SEGLAB:
            yield _named([size]), _with(task, [size])


def _named(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) + (" template" if list(sizes) == [1] else " templates")


def _with(task: Task, sizes: Collection[int]) -> Task:
    return replace(task, questions=tuple(question for question in task.questions if question.wanted in sizes))
