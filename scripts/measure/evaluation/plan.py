"""Which templates meet which queries: drawn once a data set, the same for every method, structure and prompt type.

Files are put in a random order in which subjects take turns. Queries come from its front and templates from behind
them, so that they meet the same image twice only where a data set is small; a template never meets its own subject.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.measure.evaluation.cases import CaseFolder, seed_of


@dataclass(frozen=True)
class Settings:
    """How much is asked.

    Attributes:
        queries: queries of each structure in 2-D.
        volume_queries: queries of each list of volumes; a volume costs as much as a hundred images.
        singles: templates that are tried one by one.
        several: pairs of how many templates answer together and how many such groups are formed at most.
        volume_several: the same for volumes.
        clicks: the clicker gives up after so many.
        seed: of everything that is drawn.
    """

    queries: int = 10
    volume_queries: int = 3
    singles: int = 8
    several: tuple[tuple[int, int], ...] = ((4, 4), (16, 1))
    volume_several: tuple[tuple[int, int], ...] = ((4, 2), (16, 1))
    clicks: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """One query and the templates that answer it together.

    Attributes:
        group: names the template, or the group of templates, over which mean, worst and best are taken.
        wanted: number of templates wanted; `templates` has fewer where subjects ran out.
        templates, query: file names.
    """

    group: str
    wanted: int
    templates: tuple[str, ...]
    query: str


@dataclass(frozen=True)
class Task:
    """Structures of one data set that are asked for together: one at a time in 2-D, all at once in volumes.

    Attributes:
        values: the structures' values in the label maps.
        queries: file names.
        questions: everything asked, single templates first.
    """

    values: tuple[int, ...]
    queries: tuple[str, ...]
    questions: tuple[Question, ...]


def tasks_of(folder: CaseFolder, settings: Settings) -> tuple[list[Task], dict[str, str]]:
    """The tasks of a data set, and for structures that cannot be asked for the reason why."""
    labels = folder.dataset.labels
    together = [tuple(labels)] if folder.dataset.dims == 3 else [(value,) for value in labels]
    tasks, refused = [], {}
    for values in together:
        showing = [file for file, shown in folder.showing.items() if shown & set(values)]
        subjects = {folder.dataset.subjects[file] for file in showing}
        if len(subjects) > 1:
            tasks.append(_task(folder, values, set(showing), settings))
        else:
            names = ", ".join(labels[value] for value in values)
            refused[names] = f"needs images of at least two subjects that show it, got {len(subjects)}"
    return tasks, refused


def _task(folder: CaseFolder, values: tuple[int, ...], showing: set[str], settings: Settings) -> Task:
    subjects = folder.dataset.subjects
    rng = np.random.default_rng(seed_of(settings.seed, folder.name))
    order = [file for file in _taking_turns(list(folder.showing), subjects, rng) if file in showing]
    flat = folder.dataset.dims == 2
    count = settings.queries if flat else settings.volume_queries
    queries, templates = order[:count], order[count:] + order[:count]
    questions = []
    for template in templates[: settings.singles]:
        questions += [
            Question(template, 1, (template,), query) for query in queries if subjects[query] != subjects[template]
        ]
    for size, groups in settings.several if flat else settings.volume_several:
        for start in range(0, size * groups, size):
            if start == 0 or start + size <= len(templates):
                turned = templates[start:] + templates[:start]
                questions += _together(f"group {start // size + 1}", size, turned, queries, subjects)
    return Task(values, tuple(queries), tuple(questions))


def _together(
    group: str, size: int, templates: Sequence[str], queries: Sequence[str], subjects: Mapping[str, str]
) -> list[Question]:
    questions = []
    for query in queries:
        others = [template for template in templates if subjects[template] != subjects[query]]
        questions.append(Question(group, size, tuple(others[:size]), query))
    return questions


def _taking_turns(files: Sequence[str], subjects: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """A random order: one image of every subject, then a second one of those that have it, and so on."""
    turns: dict[str, int] = defaultdict(int)
    numbered = []
    for place, index in enumerate(rng.permutation(len(files))):
        subject = subjects[files[index]]
        numbered.append((turns[subject], place, files[index]))
        turns[subject] += 1
    return [file for _, _, file in sorted(numbered)]
