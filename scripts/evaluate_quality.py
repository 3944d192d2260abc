"""Measure the predicted quality: `python -m scripts.evaluate_quality --data DIR [--split dev] [--curves PNG]`.

Each data set becomes study lists with one template or several; the other studies are segmented as the server does it,
and what is predicted of the masks is held against their true Dice: before any correction and after 1, 5 and 20 random
ones of the same list. Prints the tables of docs/quality.md. Masks are kept in a file: start the same command again and
it goes on where it stopped. With `--promptseg FILE` it is PromptSeg's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.files import write_atomically
from lib.inference.templates import Template
from lib.learning.datasets import Dataset, DatasetError, read_datasets
from lib.networks.checkpoints import CheckpointError
from lib.quality.estimator import Estimator, EstimatorError
from lib.quality.features import FEATURES
from lib.segmenters.settings import SegmenterSettings
from scripts.calibrate import SEVERAL, TEMPLATES, add_model_options, beside_weights, segmenter_of
from scripts.measure.calibration.curves import draw
from scripts.measure.calibration.lists import Collection, Record, of_dataset
from scripts.measure.calibration.measures import CORRECTIONS, predict_lists, summary

COLUMNS = {  # of the printed tables: heading, key of the summary, digits
    "masks": ("masks", 0),
    "true Dice": ("true", 2),
    "r": ("correlation", 2),
    "error": ("error", 3),
    "AUROC < 0.6": ("auroc", 2),
    "in interval": ("coverage", 2),
    "width": ("width", 2),
    "accepted": ("accepted", 0),
    "of them < 0.75": ("accepted_bad", 2),
    "of >= 0.85 accepted": ("good_accepted", 2),
}


def table(rows: Sequence[tuple[str, dict[str, Any]]], first: str) -> str:
    """A Markdown table of summaries."""
    lines = [f"| {first} | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, entry in rows:
        cells = ["-" if entry[key] is None else f"{entry[key]:.{digits}f}" for key, digits in COLUMNS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(options: argparse.Namespace, dataset: Dataset) -> dict[str, float]:
    """Seconds for one more study of a list, and how much of them goes into the predicted quality."""
    studies = of_dataset(dataset, False, (1,), 1, 2)
    first = studies.studies[studies.groups[0][0]]
    values = set(np.unique(first.label).tolist())
    names = {name: value for name, value in studies.names.items() if value in values}
    template = Template(first.id, first.image, first.label, names)
    others = [study for study in studies.studies if study.subject != first.subject][:3]
    seconds = {}
    for slices in (SegmenterSettings().quality_slices, 0):
        segmenter = segmenter_of(options, SegmenterSettings(quality_slices=slices))
        segmenter.segment(others[0].image, [template], names)
        began = time.process_time() if options.device == "cpu" else time.monotonic()
        for study in others[1:]:
            segmenter.segment(study.image, [template], names)
        ended = time.process_time() if options.device == "cpu" else time.monotonic()
        seconds[slices] = (ended - began) / max(1, len(others) - 1)
    return {
        "segmentation": seconds[0],
        "with_quality": max(seconds.values()),
        "ratio": max(seconds.values()) / seconds[0],
    }


def collect(options: argparse.Namespace) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """Masks of all lists, and what their quality costs."""
    segmenter = segmenter_of(options)
    datasets = read_datasets(options.data, options.split)
    if options.sets:
        datasets = [dataset for dataset in datasets if dataset.name in options.sets.split(",")]
    counts = options.templates or (SEVERAL if options.promptseg else TEMPLATES)
    made = {"lists": options.lists, "studies": options.studies, "templates": counts}
    collection = Collection(options.records, {"weights": segmenter.weights_hash, "features": FEATURES, **made})
    costs = {}
    for dataset in sorted(datasets, key=lambda one: one.dims):
        lists = options.lists if dataset.dims == 2 else max(1, options.lists // 3)
        collection.take(dataset.name, segmenter, [of_dataset(dataset, False, counts, lists, options.studies)])
        if options.cost:
            costs[dataset.name] = cost(options, dataset)
    return [record for record in collection.records if record.list in {d.name for d in datasets}], costs


def report(records: Sequence[Record], estimator: Estimator, costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print the tables; returns their numbers."""
    answers = {count: predict_lists(records, estimator, count) for count in CORRECTIONS}
    pooled = {count: summary(values) for count, values in answers.items() if values}
    by_set = {
        count: {name: summary([one for one in values if one.list == name]) for name in sorted({o.list for o in values})}
        for count, values in answers.items()
    }
    print(table([(str(count), values) for count, values in pooled.items()], "corrections"), end="\n\n")
    for count in (CORRECTIONS[0], CORRECTIONS[-1]):
        print(f"After {count} corrections:\n\n{table(list(by_set[count].items()), 'data set')}", end="\n\n")
    if costs:
        print("| data set | seconds a study | with quality | ratio |\n|---|---|---|---|")
        for name, values in costs.items():
            print(f"| {name} | {values['segmentation']:.2f} | {values['with_quality']:.2f} | {values['ratio']:.2f} |")
    return {"pooled": pooled, "by_set": by_set, "cost": costs, "estimator": dict(estimator.about)}


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets (lib/learning/datasets.py)")
    parser.add_argument("--split", default="dev", help="use data sets of this split only (%(default)s)")
    parser.add_argument("--sets", default="", help="names with commas between; all of the split by default")
    add_model_options(parser)
    parser.add_argument("--estimator", type=Path, help="as scripts.calibrate writes it (the one beside the weights)")
    parser.add_argument("--records", type=Path, default=Path("evaluation/quality.json"), help="where masks are kept")
    parser.add_argument(
        "--templates", type=int, nargs="+", help=f"of the lists of a data set, in turn {TEMPLATES}; PromptSeg {SEVERAL}"
    )
    parser.add_argument(
        "--lists", type=int, default=3, help="lists made of each data set (%(default)s; of volumes a third)"
    )
    parser.add_argument("--studies", type=int, default=60, help="studies segmented in each list (%(default)s)")
    parser.add_argument("--cost", action="store_true", help="measure what the quality costs; the machine must be idle")
    parser.add_argument("--json", type=Path, help="write every number")
    parser.add_argument("--curves", type=Path, help="write a picture")
    options = parser.parse_args(arguments)
    try:
        estimator = Estimator.read(options.estimator or beside_weights(options))
        records, costs = collect(options)
    except (CheckpointError, DatasetError, EstimatorError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    result = report(records, estimator, costs)
    if options.json:
        write_atomically(options.json, json.dumps(result, indent=1).encode())
    if options.curves:
        draw({count: predict_lists(records, estimator, count) for count in CORRECTIONS}, options.curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
