"""Pictures of the best and the worst answer for each structure, in one HTML page that needs no server.

The answers are asked for again, so that what is shown is what the weights do and not what a file remembers.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.imaging.files import write_atomically
from lib.imaging.metrics import dice
from lib.imaging.prompts import PromptType
from scripts.measure.evaluation.cases import Case, CaseFolder
from scripts.measure.evaluation.clicking import ENOUGH, REPORTED, click_through
from scripts.measure.evaluation.drawing import Panel, draw
from scripts.measure.evaluation.methods import ClickMethod, TemplateMethod, TemplateQuestion
from scripts.measure.evaluation.store import Record

STYLE = "body{font:15px sans-serif;margin:2em;max-width:1500px}img{width:100%}h2{margin:1.2em 0 .2em}"


@dataclass(frozen=True)
class Picture:
    """A heading and a PNG."""

    title: str
    png: bytes


def template_pictures(
    folder: CaseFolder, records: Sequence[Record], methods: Sequence[TemplateMethod]
) -> Iterator[Picture]:
    """Best and worst pair of each structure of a data set, with one SegLab template, by the first method's Dice.

    Args:
        records: of any data sets and methods; those of this data set and the first method are looked at.
    """
    for value, label in folder.dataset.labels.items():
        wanted = {"label": label, "method": methods[0].name, "prompt": "seglab", "templates": 1}
        for word, record in _worst_and_best(folder, records, wanted, lambda score: score["dice"]):
            query, template = folder.case(record["query"]), folder.case(record["group"])
            panels = [
                Panel(f"template: {_file(template)}", template, template.mask(value), template.mask(value)),
                Panel(f"query, truth: {_file(query)}", query, query.mask(value), query.mask(value)),
            ]
            for method in methods:
                answer = next(
                    iter(method.answers([TemplateQuestion(query, (template,), {value: label})], PromptType.SEGLAB))
                )
                score = 100 * dice(answer[value], query.mask(value))
                panels.append(Panel(f"{method.name}: {score:.0f}", query, answer[value], query.mask(value)))
            title = f"{folder.name} / {label}, one template, {word}: Dice {record['dice']:.0f}"
            yield Picture(title, draw(panels))


def click_pictures(folder: CaseFolder, records: Sequence[Record], methods: Sequence[ClickMethod]) -> Iterator[Picture]:
    """Best and worst image of each structure after the last reported click, by the first method's Dice."""
    after = str(ENOUGH)
    for value, label in folder.dataset.labels.items():
        wanted = {"label": label, "method": methods[0].name}
        for word, record in _worst_and_best(folder, records, wanted, lambda row: row["after"][after]["dice"]):
            query = folder.case(record["query"])
            panels = [Panel(f"truth: {_file(query)}", query, query.mask(value), query.mask(value))]
            shown = [(methods[0], count) for count in REPORTED] + [(method, ENOUGH) for method in methods[1:]]
            for method, count in shown:
                (clicked,) = click_through(method, [query], value, count)
                title = f"{method.name}, {len(clicked.dices)} clicks: {clicked.dices[-1]:.0f}"
                panels.append(Panel(title, query, clicked.mask, clicked.truth, clicked.prompt))
            title = f"{folder.name} / {label}, {after} clicks, {word}: Dice {record['after'][after]['dice']:.0f}"
            yield Picture(title, draw(panels))


def write_page(path: Path, chosen: Sequence[Picture], introduction: str) -> None:
    """One HTML file with all pictures inside, whole or not at all."""
    parts = [f"<!doctype html><meta charset=utf-8><title>One-Prompt, best and worst</title><style>{STYLE}</style>"]
    parts.append(f"<p>{html.escape(introduction)}</p>")
    for picture in chosen:
        data = base64.b64encode(picture.png).decode()
        parts.append(f"<h2>{html.escape(picture.title)}</h2><img src='data:image/png;base64,{data}'>")
    write_atomically(path, "\n".join(parts).encode())


def _worst_and_best(
    folder: CaseFolder, records: Sequence[Record], wanted: Record, dice_of: Callable[[Record], float]
) -> list[tuple[str, Record]]:
    """The two ends of the records that have the wanted entries, which those of clicks and of templates share."""
    wanted = {**wanted, "dataset": folder.name}
    matching = [record for record in records if all(record.get(key) == part for key, part in wanted.items())]
    matching = [record for record in matching if ("clicks" in record) is ("prompt" not in wanted)]
    return [("worst", min(matching, key=dice_of)), ("best", max(matching, key=dice_of))] if matching else []


def _file(case: Case) -> str:
    return case.id.split("/")[-1]
