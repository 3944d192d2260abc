"""From answers to records: one for each question and structure, one for each image under the clicker."""

from __future__ import annotations

from collections.abc import Iterator

from lib.imaging.metrics import score
from lib.imaging.prompts import PromptType
from scripts.measure.evaluation.cases import CaseFolder
from scripts.measure.evaluation.clicking import REPORTED, TARGETS, click_through
from scripts.measure.evaluation.methods import ClickMethod, TemplateMethod, TemplateQuestion
from scripts.measure.evaluation.plan import Settings, Task
from scripts.measure.evaluation.store import Record


def template_records(folder: CaseFolder, task: Task, method: TemplateMethod, kind: PromptType) -> Iterator[Record]:
    """Ask a method everything of a task with one kind of prompt; structures that the query shows are scored."""
    names = {value: folder.dataset.labels[value] for value in task.values}
    questions = [
        TemplateQuestion(folder.case(q.query), tuple(folder.case(template) for template in q.templates), names)
        for q in task.questions
    ]
    for question, one, answer in zip(task.questions, questions, method.answers(questions, kind), strict=True):
        for value in sorted(set(answer) & folder.showing[question.query]):
            result = score(answer[value], one.query.mask(value), one.query.image.spacing)
            yield {
                "dataset": folder.name,
                "label": names[value],
                "method": method.name,
                "prompt": kind.value,
                "templates": question.wanted,
                "reached": len(question.templates),
                "group": question.group,
                "query": question.query,
                **_rounded(result.__dict__),
            }


def click_records(folder: CaseFolder, task: Task, method: ClickMethod, settings: Settings) -> Iterator[Record]:
    """Let the clicker work on every query of a task with every structure that it shows."""
    for value in task.values:
        files = [file for file in task.queries if value in folder.showing[file]]
        for file, clicked in zip(
            files, click_through(method, [folder.case(file) for file in files], value, settings.clicks), strict=True
        ):
            after = {n: clicked.score_after(n) for n in REPORTED}
            yield {
                "dataset": folder.name,
                "label": folder.dataset.labels[value],
                "method": method.name,
                "query": file,
                "clicks": {str(t): clicked.clicks_to(t, settings.clicks) for t in TARGETS},
                "got": {str(t): bool(max(clicked.dices) >= t) for t in TARGETS},
                "after": {str(n): _rounded(result.__dict__) for n, result in after.items()},
            }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
