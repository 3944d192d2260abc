"""The picture of docs/promptseg.md: Dice by the number of templates that answer together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_by_templates(overall: Iterable[Mapping[str, Any]], path: Path) -> None:
    """A line for each method and prompt, from the rows of `summarise`'s `overall`, with its 95 % interval over sets."""
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in overall:
        if not row["templates"]:  # clicks on the image itself
            continue
        lines.setdefault((row["method"], row["prompt"]), []).append(row)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (method, prompt), rows in lines.items():
        rows = sorted(rows, key=lambda row: int(row["templates"]))
        counts = [row["templates"] for row in rows]
        (line,) = axes.plot(counts, [row["mean"] for row in rows], "o-", label=f"{method}, {prompt}")
        axes.fill_between(
            counts, [row["low"] for row in rows], [row["high"] for row in rows], color=line.get_color(), alpha=0.08
        )
    ticks = sorted({row["templates"] for rows in lines.values() for row in rows})
    axes.set_xscale("log", base=2)
    axes.set(xlabel="templates that answer together", ylabel="Dice", xticks=ticks, xticklabels=ticks)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)
