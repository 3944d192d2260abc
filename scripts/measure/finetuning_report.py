"""What `scripts.evaluate_finetuning` prints of its rows: a table over lists, and how well the quality was predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

LIST_UNET = "specialist"  # mode, and name in a row's `won`, of a list-specific U-Net


def report(rows: Iterable[dict[str, Any]]) -> str:
    """A Markdown table, a line for each list, number of labelled studies and mode, means over seeds; then their means.

    "After" is what is served afterwards: the candidate where it is published, else the parent. "PromptSeg" is that of
    PromptSeg as it ships, with up to eight of the labelled studies.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["list"], row["labelled"], row["mode"]), []).append(row)
    lines = [
        "| list | labelled | what learns | PromptSeg | Dice before | after | gain | worst seed | published "
        "| one template before | after | processor time |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted(groups):
        lines.append(_table_line(key, groups[key]))
    for labelled, mode in sorted({key[1:] for key in groups}):
        some = [row for key, own in groups.items() if key[1:] == (labelled, mode) for row in own]
        lines.append(_table_line(("**mean**", labelled, mode), some))
    return "\n".join(lines) + "\n"


def _table_line(key: tuple[Any, ...], rows: Sequence[dict[str, Any]]) -> str:
    name, labelled, mode = key
    figures = [
        (row["before"], _served(row, ""), row["before_one"], _served(row, "_one"), row["cpu_seconds"]) for row in rows
    ]
    before, after, one_before, one_after, used = np.mean(figures, axis=0)
    gains = [row[1] - row[0] for row in figures]
    others = [row["promptseg"] for row in rows if row.get("promptseg") is not None]
    promptseg = f"{np.mean(others):.1f}" if others else "-"
    published = "" if rows[0]["only_final"] else f"{sum(row['published'] for row in rows)} of {len(rows)}"
    return (
        f"| {name} | {labelled} | {mode} | {promptseg} | {before:.1f} | {after:.1f} | {np.mean(gains):+.1f} "
        f"| {min(gains):+.1f} | {published} | {one_before:.1f} | {one_after:.1f} | {used:.0f} s |"
    )


def _served(row: dict[str, Any], which: str) -> float:
    """The Dice of what is served after the verdict."""
    taken = row["published"] or row["only_final"]
    return float(row[f"{'after' if taken else 'before'}{which}"])


def quality_line(rows: Sequence[dict[str, Any]]) -> str:
    """How well the Dice of masks with list-specific U-Nets is predicted, where they won; empty without any."""
    pairs = np.array([pair for row in rows if LIST_UNET in row.get("won", ()) for pair in row["judged"]])
    if len(pairs) < 3:
        return ""
    error, agreement = np.abs(pairs[:, 0] - pairs[:, 1]).mean(), np.corrcoef(pairs.T)[0, 1]
    low = (pairs[:, 0] - pairs[:, 1]).mean()
    return (
        f"\nPredicted Dice of {len(pairs)} masks with a list-specific U-Net, without corrections: mean error "
        f"{error:.3f} ({low:+.3f} on the whole), correlation {agreement:.2f}.\n"
    )


def row_line(row: dict[str, Any]) -> str:
    """One row, for the terminal."""
    return (
        f"{row['list']} {row['labelled']} {row['mode']} seed {row['seed']}: {row['before']:.1f} to {row['after']:.1f}, "
        f"{'better' if row['published'] else 'not better'} ({row['reason']}), {row['cpu_seconds']:.0f} s"
    )
