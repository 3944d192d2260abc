"""From records to the reported numbers: a row for each structure, and means over data sets with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.measure.evaluation.clicking import REPORTED, TARGETS
from scripts.measure.evaluation.statistics import (
    RESAMPLES,
    interval,
    mean_over_datasets,
    resampled_means,
    resampled_over_datasets,
)
from scripts.measure.evaluation.store import Record


@dataclass(frozen=True, eq=False)
class _Row:
    """A public row and the bootstrap replicates (RESAMPLES,) of its mean Dice."""

    values: Record
    replicates: np.ndarray


def summarise(records: Iterable[Record], units: Mapping[str, str], seed: int = 0) -> dict[str, list[Record]]:
    """All reported numbers, Dice in 0..100.

    Args:
        records: of `records.template_records` and `records.click_records`.
        units: data set to the unit of its surface distances.

    Returns:
        `rows` and `overall` of templates and of the interactive mode, `clicks` and `clicks_overall` to each target.
    """
    rng = np.random.default_rng(seed)
    by_template, by_click = defaultdict(list), defaultdict(list)
    for record in records:
        if "clicks" in record:
            by_click[record["dataset"], record["label"], record["method"]].append(record)
        else:
            by_template[tuple(record[k] for k in ("dataset", "label", "method", "prompt", "templates"))].append(record)
    rows = [_template_row(key, scores, units, rng) for key, scores in by_template.items()]
    rows += [row for key, scores in by_click.items() for row in _after_clicks(key, scores, units, rng)]
    clicks = [_clicks_row(key, scores) for key, scores in by_click.items()]
    return {
        "rows": [row.values for row in rows],
        "overall": _overall(rows, rng),
        "clicks": clicks,
        "clicks_overall": _clicks_overall(clicks, rng),
    }


def _template_row(
    key: tuple[str, str, str, str, int], records: Sequence[Record], units: Mapping[str, str], rng: np.random.Generator
) -> _Row:
    groups = {group: n for n, group in enumerate(dict.fromkeys(record["group"] for record in records))}
    queries = {query: n for n, query in enumerate(dict.fromkeys(record["query"] for record in records))}
    columns = {}
    for name in ("dice", "surface", "surface_percent"):
        columns[name] = np.full((len(groups), len(queries)), np.nan)  # NaN: a template never serves its own subject
        for record in records:
            columns[name][groups[record["group"]], queries[record["query"]]] = record[name]
    row = _row(key, columns, units, rng)
    row.values["reached"] = round(float(np.mean([record["reached"] for record in records])), 2)
    return row


def _after_clicks(
    key: tuple[str, str, str], records: Sequence[Record], units: Mapping[str, str], rng: np.random.Generator
) -> Iterable[_Row]:
    """Rows of the interactive mode; where there is no template, worst and best are those of the images."""
    for count in REPORTED:
        after = [record["after"][str(count)] for record in records]
        columns = {name: np.array([[one[name]] for one in after]) for name in ("dice", "surface", "surface_percent")}
        yield _row((*key, f"{count} click" + "s" * (count > 1), 0), columns, units, rng)


def _row(
    key: tuple[str, str, str, str, int],
    scores: Mapping[str, np.ndarray],
    units: Mapping[str, str],
    rng: np.random.Generator,
) -> _Row:
    """One row from its numbers, each (templates, queries)."""
    means, apart = (np.nanmean(scores[name], axis=1) for name in ("dice", "surface"))
    replicates = resampled_means(scores["dice"], rng)
    low, high = interval(replicates)
    values = {
        **dict(zip(("dataset", "label", "method", "prompt", "templates"), key, strict=True)),
        **_rounded(mean=means.mean(), worst=means.min(), median=np.median(means), best=means.max(), low=low, high=high),
        "n": int(np.isfinite(scores["dice"]).sum()),
        **_rounded(surface=apart.mean(), surface_worst=apart.max()),
        **_rounded(surface_median=np.median(apart), surface_best=apart.min()),
        "surface_unit": units[key[0]],
        **_rounded(surface_percent=np.nanmean(scores["surface_percent"])),
    }
    return _Row(values, replicates)


def _overall(rows: Sequence[_Row], rng: np.random.Generator) -> list[Record]:
    groups = defaultdict(list)
    for row in rows:
        groups[row.values["method"], row.values["prompt"], row.values["templates"]].append(row)
    overall = []
    for (method, prompt, templates), members in groups.items():
        datasets = [row.values["dataset"] for row in members]
        low, high = interval(resampled_over_datasets(datasets, [row.replicates for row in members], rng))
        averages = {
            name: mean_over_datasets(datasets, [row.values[name] for row in members])
            for name in ("mean", "worst", "median", "best", "surface_percent")
        }
        overall.append(
            {
                "method": method,
                "prompt": prompt,
                "templates": templates,
                **_rounded(low=low, high=high, **averages),
                "datasets": len(set(datasets)),
                "labels": len(members),
            }
        )
    return overall


def _clicks_row(key: tuple[str, str, str], records: Sequence[Record]) -> Record:
    row: Record = dict(zip(("dataset", "label", "method"), key, strict=True))
    for target in map(str, TARGETS):
        row[f"clicks{target}"] = round(float(np.mean([record["clicks"][target] for record in records])), 2)
        row[f"failed{target}"] = round(100 * float(np.mean([not record["got"][target] for record in records])), 1)
    return {**row, "n": len(records)}


def _clicks_overall(rows: Sequence[Record], rng: np.random.Generator) -> list[Record]:
    """Mean clicks over data sets, the clicks of the median structure, and the share of images that never got there."""
    overall = []
    for method in dict.fromkeys(row["method"] for row in rows):
        members = [row for row in rows if row["method"] == method]
        datasets = [row["dataset"] for row in members]
        summed: Record = {"method": method}
        for target in TARGETS:
            clicks = [row[f"clicks{target}"] for row in members]
            spread = [np.full(RESAMPLES, count) for count in clicks]
            low, high = interval(resampled_over_datasets(datasets, spread, rng))
            numbers = {
                f"clicks{target}": mean_over_datasets(datasets, clicks),
                f"clicks{target}_low": low,
                f"clicks{target}_high": high,
                f"clicks{target}_median_task": np.median(clicks),
                f"failed{target}": mean_over_datasets(datasets, [row[f"failed{target}"] for row in members]),
            }
            summed |= _rounded(**numbers)
        overall.append({**summed, "datasets": len(set(datasets)), "labels": len(members)})
    return overall


def _rounded(**values: float) -> dict[str, float]:
    return {name: round(float(value), 2) for name, value in values.items()}
