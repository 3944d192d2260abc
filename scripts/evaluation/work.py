"""What an evaluation does, cut into units that are finished as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial

from scripts.evaluation.cases import CaseFolder
from scripts.evaluation.methods import ClickMethod, TemplateMethod
from scripts.evaluation.panel import DEAR, Panel
from scripts.evaluation.plan import Settings, tasks_of
from scripts.evaluation.records import click_records, template_records
from scripts.evaluation.store import Record


@dataclass(frozen=True)
class Unit:
    """One task by one method, with one kind of prompt on the templates or with clicks.

    Attributes:
        name: for people.
        key: everything that its records depend on.
        dear: done after everything that is not.
        make: does the work.
    """

    name: str
    key: str
    dear: bool
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
        work: list[tuple[TemplateMethod | ClickMethod, str, Callable[[], Iterable[Record]]]] = [
            (method, kind.value, partial(template_records, folder, task, method, kind))
            for method in methods.by_template
            for kind in method.prompts
        ]
        work += [
            (clicker, "clicks", partial(click_records, folder, task, clicker, settings))
            for clicker in methods.by_clicks
        ]
        for method, prompt, make in work:
            depends = [source, folder.fingerprint, folder.name, task.values, method.name, method.fingerprint, prompt]
            key = json.dumps([*depends, asdict(settings)])
            units.append(Unit(f"{where}: {method.name}, {prompt}", key, method.name in DEAR, make))
    return units, {f"{folder.name} / {labels}": reason for labels, reason in refused.items()}
