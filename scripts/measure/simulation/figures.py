"""What a simulation comes to: tables for people, a dictionary for programs, a curve as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scripts.measure.simulation.annotator import Work
from scripts.measure.simulation.goals import GOALS

TITLES = {
    "hand": "by hand with clicks",
    "interactive": "per-image interactive",
    "random": "One-Prompt, random order",
    "full": "full loop",
}
AFTER = (0, 1, 3, 5, 10, 20)  # clicks
REACHED = (0.8, 0.85, 0.9)  # Dice
_YARDSTICKS = ("hand", "interactive")


def summary(entries: Sequence[Mapping[str, Any]], unseen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One way's figures.

    Args:
        entries: its log, one a study that was opened.
        unseen: {"id", "dice": {structure: Dice}} of what was accepted without a look.
    """
    final = [value for entry in entries for value in entry["final"].values()]
    hidden = [value for entry in unseen for value in entry["dice"].values()]
    return {
        "opened": len(entries),
        "untouched": sum(not any(work.clicks(GOALS[-1]) for work in _works(entry)) for entry in entries),
        "unseen": len(unseen),
        "unseen_dice": _points(hidden),
        "unseen_below_75": sum(min(entry["dice"].values()) < 0.75 for entry in unseen),
        "final_dice": _points([*final, *hidden]),
        "goals": {str(goal): _at(goal, entries, unseen) for goal in GOALS},
    }


def table(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one row a way and goal."""
    head = ("way", "every structure at", "clicks", "of them drawing", "against by hand",
            "against interactive", "opened", "without a click", "accepted unseen", "their Dice", "hit the limit",
            "final Dice", "at goal")  # fmt: skip
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for goal in map(str, GOALS):
        bases = [ways.get(way, {}).get("goals", {}).get(goal, {}).get("clicks") for way in _YARDSTICKS]
        for way, result in ways.items():
            at = result["goals"][goal]
            saved = [f"{100 * (at['clicks'] / base - 1):+.0f} %" if base else "-" for base in bases]
            cells = (TITLES[way], f"{float(goal):.0%}", at["clicks"], at["drawing"], *saved, result["opened"],
                     at["without_click"], result["unseen"], _one_decimal(result["unseen_dice"]),
                     len(at["limited"]), _one_decimal(result["final_dice"]),
                     f"{at['reached']} of {result['opened'] + result['unseen']}")  # fmt: skip
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def convergence(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: how fast clicks make a structure good, one row a way, and one more where it began both with and without
    a mask."""
    columns = (*(f"after {n}" for n in AFTER), *(f"to {goal:.0%} (reached)" for goal in REACHED))
    head = ("way", "from", "structures", *columns)
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for way, entries in logs.items():
        works = [work for entry in entries for work in _works(entry) if work.start or work.dices]
        begun = {"a mask": [w for w in works if w.start > 0], "nothing": [w for w in works if w.start == 0]}
        for start, own in begun.items():
            if own:
                dices = [f"{100 * np.mean([work.after(n) for work in own]):.1f}" for n in AFTER]
                cells = (TITLES[way], start, len(own), *dices, *(_median(own, goal) for goal in REACHED))
                rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _median(works: Sequence[Work], goal: float) -> str:
    """Clicks to the goal in the median structure, and how many structures reached it by clicking at all."""
    reached = [work.reached(goal) for work in works]
    median = np.median([np.inf if clicks is None else clicks for clicks in reached])
    most = max(len(work.dices) for work in works)
    shown = f"{median:g}" if np.isfinite(median) else f"> {most}"
    return f"{shown} ({sum(clicks is not None for clicks in reached)})"


def curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], unseen: Mapping[str, int]) -> bytes:
    """PNG: clicks given against studies finished, a panel a goal, a line a way."""
    figure = Figure(figsize=(5 * len(GOALS), 3.6), layout="constrained")
    for place, goal in enumerate(GOALS, start=1):
        axes = figure.add_subplot(1, len(GOALS), place)
        for way, entries in logs.items():
            clicks = [sum(work.clicks(goal) for work in _works(entry)) for entry in entries]
            total = np.concatenate([[0], np.cumsum([*clicks, *[0] * unseen.get(way, 0)])])
            axes.plot(total, label=TITLES[way], drawstyle="steps-post")
        axes.set(xlabel="studies finished", ylabel="clicks given", title=f"every structure at {goal:.0%} Dice")
        axes.grid(alpha=0.3)
        if place == 1:
            axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    return buffer.getvalue()


def _at(goal: float, entries: Sequence[Mapping[str, Any]], unseen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    works = [_works(entry) for entry in entries]
    limited = [entry["id"] for entry in entries if any(w.dices and w.limited(goal) for w in _works(entry))]
    return {
        "clicks": sum(work.clicks(goal) for works_ in works for work in works_),
        "drawing": sum(work.drawing.get(goal, 0) for works_ in works for work in works_ if work.limited(goal)),
        "without_click": sum(all(work.clicks(goal) == 0 for work in works_) for works_ in works),
        "limited": limited,
        "reached": len(entries) + sum(min(entry["dice"].values()) >= goal for entry in unseen),
        "by_study": {e["id"]: sum(work.clicks(goal) for work in _works(e)) for e in entries},
    }


def _works(entry: Mapping[str, Any]) -> list[Work]:
    return [Work.of(record) for record in entry["structures"].values()]


def _points(values: Sequence[float]) -> float | None:
    return round(100 * float(np.mean(values)), 1) if values else None


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
