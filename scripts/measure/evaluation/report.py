"""Tables for people, in Markdown: what the README and the model card show is this text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.measure.evaluation.clicking import TARGETS
from scripts.measure.evaluation.segmenters import ONE_PROMPT
from scripts.measure.evaluation.store import Record

HEADLINE = (ONE_PROMPT, "seglab", 1)
COLUMNS = (  # of the table by structure: heading, method, prompt, templates, number
    ("SegLab", ONE_PROMPT, "seglab", 1, "mean"),
    ("worst", ONE_PROMPT, "seglab", 1, "worst"),
    ("best", ONE_PROMPT, "seglab", 1, "best"),
    ("4", ONE_PROMPT, "seglab", 4, "mean"),
    ("16", ONE_PROMPT, "seglab", 16, "mean"),
    ("BBox", ONE_PROMPT, "bbox", 1, "mean"),
    ("Doodle", ONE_PROMPT, "doodle", 1, "mean"),
    ("Click", ONE_PROMPT, "click", 1, "mean"),
    ("copy", "copy", "seglab", 1, "mean"),
    ("registration", "registration", "seglab", 1, "mean"),
    ("prototypes", "prototypes", "seglab", 1, "mean"),
    ("1 click", ONE_PROMPT, "1 click", 0, "mean"),
    ("5 clicks", ONE_PROMPT, "5 clicks", 0, "mean"),
)


def report(results: Mapping[str, Any]) -> str:
    """Everything that `scripts.evaluate` found, as one Markdown text."""
    parts = ["## Over data sets\n", _overall(results["overall"])]
    if margin := _margin(results["overall"]):
        parts += ["", margin]
    if results["clicks_overall"]:
        parts += ["\n## Clicks to a target\n", _clicks(results["clicks_overall"])]
    parts += ["\n## By structure (mean Dice)\n", _by_structure(results["rows"], results["clicks"])]
    for title, noted in (("Left out", results["left_out"]), ("Not finished", results["unfinished"])):
        if noted:
            lines = noted.items() if isinstance(noted, Mapping) else ((unit, "") for unit in noted)
            parts += [f"\n## {title}\n", *(f"- {what}{': ' if why else ''}{why}" for what, why in lines)]
    return "\n".join(parts) + "\n"


def _overall(overall: Sequence[Record]) -> str:
    head = [
        "method",
        "prompt",
        "templates",
        "Dice",
        "95 %",
        "worst",
        "median",
        "best",
        "surface, % of diagonal",
        "sets",
    ]
    order = sorted(overall, key=lambda row: (row["templates"] == 0, row["prompt"] != "seglab"))  # stable: rest as asked
    rows = [
        [
            row["method"],
            row["prompt"],
            row["templates"] or "own",
            f"{row['mean']:.1f}",
            f"{row['low']:.1f}-{row['high']:.1f}",
            *(f"{row[name]:.1f}" for name in ("worst", "median", "best", "surface_percent")),
            f"{row['datasets']} ({row['labels']})",
        ]
        for row in order
    ]
    return table(head, rows)


def _margin(overall: Sequence[Record]) -> str:
    """One sentence: One-Prompt against the best of the others with one template."""
    single = {row["method"]: row for row in overall if (row["prompt"], row["templates"]) == HEADLINE[1:]}
    others = {name: row for name, row in single.items() if name != ONE_PROMPT}
    if ONE_PROMPT not in single or not others:
        return ""
    best = max(others, key=lambda name: others[name]["mean"])
    ours = single[ONE_PROMPT]
    uneven = "" if ours["labels"] == others[best]["labels"] else " (which answered other structures too or fewer)"
    return f"One template: {ONE_PROMPT} {ours['mean'] - others[best]['mean']:+.1f} Dice against {best}{uneven}."


def _clicks(overall: Sequence[Record]) -> str:
    head = ["method", *(f"{t} %" for t in TARGETS), "median structure, 80 %", *(f"never {t} %" for t in TARGETS)]
    rows = [
        [
            row["method"],
            *(f"{row[f'clicks{t}']:.1f} ({row[f'clicks{t}_low']:.1f}-{row[f'clicks{t}_high']:.1f})" for t in TARGETS),
            f"{row['clicks80_median_task']:.1f}",
            *(f"{row[f'failed{t}']:.0f} %" for t in TARGETS),
        ]
        for row in overall
    ]
    return table(head, rows)


def _by_structure(rows: Sequence[Record], clicks: Sequence[Record]) -> str:
    by_key = {(r["dataset"], r["label"], r["method"], r["prompt"], r["templates"]): r for r in rows}
    to_80 = {(r["dataset"], r["label"]): r["clicks80"] for r in clicks if r["method"] == ONE_PROMPT}
    body = []
    for dataset, label in dict.fromkeys((r["dataset"], r["label"]) for r in rows):
        cells = []
        for _, method, prompt, templates, name in COLUMNS:
            row = by_key.get((dataset, label, method, prompt, templates))
            cells.append("" if row is None else f"{row[name]:.0f}")
        clicked = to_80.get((dataset, label))
        body.append([dataset, label, *cells, "" if clicked is None else f"{clicked:.1f}"])
    return table(["data set", "structure", *(column[0] for column in COLUMNS), "clicks to 80 %"], body)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too."""
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    shown = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *shown[1:]])
