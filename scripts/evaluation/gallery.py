"""Pictures of the best and the worst answer for each structure, in one HTML page that needs no server.

The answers are asked for again, so that what is shown is what the weights do and not what a file remembers.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.files import write_atomically
from lib.prompts import PromptType
from scripts.evaluation.cases import Case, CaseFolder
from scripts.evaluation.methods import Asked, TemplateMethod
from scripts.evaluation.metrics import dice
from scripts.evaluation.store import Record

STYLE = "body{font:15px sans-serif;margin:2em;max-width:1500px}img{width:100%}h2{margin:1.2em 0 .2em}"


@dataclass(frozen=True)
class Picture:
    """One pair: its heading and a PNG."""

    title: str
    png: bytes


def pictures(
    folder: CaseFolder, records: Sequence[Record], methods: Sequence[TemplateMethod], most: int = 1
) -> Iterator[Picture]:
    """Best and worst pairs of each structure of a data set, with one SegLab template, by the first method's Dice.

    Args:
        records: of any data sets and methods; those of this data set and the first method are looked at.
        most: how many of each.
    """
    first = methods[0].name
    for value, label in folder.dataset.labels.items():
        wanted = {"dataset": folder.name, "label": label, "method": first, "prompt": "seglab", "templates": 1}
        found = [record for record in records if all(record.get(key) == part for key, part in wanted.items())]
        found.sort(key=lambda record: record["dice"])
        for word, chosen in (("worst", found[:most]), ("best", found[: -most - 1 : -1])):
            for record in chosen:
                yield _picture(folder, value, label, word, record, methods)


def write_page(path: Path, chosen: Sequence[Picture], introduction: str) -> None:
    """One HTML file with all pictures inside, whole or not at all."""
    parts = [f"<!doctype html><meta charset=utf-8><title>One-Prompt, best and worst</title><style>{STYLE}</style>"]
    parts.append(f"<p>{html.escape(introduction)}</p>")
    for picture in chosen:
        data = base64.b64encode(picture.png).decode()
        parts.append(f"<h2>{html.escape(picture.title)}</h2><img src='data:image/png;base64,{data}'>")
    write_atomically(path, "\n".join(parts).encode())


def _picture(
    folder: CaseFolder, value: int, label: str, word: str, record: Record, methods: Sequence[TemplateMethod]
) -> Picture:
    query, template = folder.case(record["query"]), folder.case(record["group"])
    asked = Asked(query, (template,), {value: label})
    truth = query.mask(value)
    panels = [("template: " + template.id.split("/")[-1], template, template.mask(value))]
    panels.append(("query, truth: " + query.id.split("/")[-1], query, truth))
    for method in methods:
        mask = next(iter(method.answers([asked], PromptType.SEGLAB)))[value]
        panels.append((f"{method.name}: {100 * dice(mask, truth):.0f}", query, mask))
    figure = Figure(figsize=(3 * len(panels), 3.3), layout="constrained")
    for number, (title, case, mask) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(title, fontsize=9)
        _draw(axes, case, mask, case.mask(value))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    return Picture(f"{folder.name} / {label}, {word}: Dice {record['dice']:.0f}", buffer.getvalue())


def _draw(axes: Axes, case: Case, mask: np.ndarray, truth: np.ndarray) -> None:
    """The slice with most of the truth: the mask filled, the truth a line."""
    shown = case.stack.slices_of(truth)
    index = int(shown.sum(axis=(1, 2)).argmax())
    image, filled = case.stack.slice(index).T, case.stack.slices_of(mask)[index].T
    low, high = np.percentile(image, (1, 99.5))
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    colour = np.zeros((*filled.shape, 4))
    colour[filled] = (1.0, 0.45, 0.1, 0.5)
    axes.imshow(colour, interpolation="nearest")
    if shown[index].any():
        axes.contour(shown[index].T, levels=[0.5], colors="white", linewidths=0.9)
