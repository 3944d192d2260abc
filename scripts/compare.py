"""What is each way of using the same weights worth? `python -m scripts.compare --data DIR --split dev [--json OUT]`.

Every option answers the same pairs of templates and queries through the segmenter, as it is served; the table gives
its mean Dice, the paired difference to the option that it is an alternative to with a 95 % bootstrap interval, and how
many times longer it computes. With `--promptseg FILE` the options are PromptSeg's. The defaults of `SegmenterSettings`
follow from these tables in docs/experiments.md. Choose on `dev`, never on `eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.imaging.files import write_atomically
from lib.imaging.metrics import dice
from lib.imaging.prompts import PromptType
from lib.inference.templates import study_descriptor
from lib.learning.datasets import DatasetError
from lib.networks import OnePrompt
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.segmenters.settings import SegmenterSettings
from scripts.evaluate import open_folders
from scripts.measure.evaluation.cases import Case, CaseFolder
from scripts.measure.evaluation.methods import TemplateQuestion
from scripts.measure.evaluation.plan import Settings, Task, tasks_of
from scripts.measure.evaluation.report import table
from scripts.measure.evaluation.segmenters import one_prompt, prompt_seg
from scripts.measure.evaluation.statistics import interval, mean_over_datasets, resampled_means
from scripts.measure.evaluation.store import FinishedRows, Record, source_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PLACE = Path("evaluation/compared.json")
AS_SERVED = SegmenterSettings()
OF_EIGHT = 8


@dataclass(frozen=True)
class Option:
    """One way of using the weights.

    Attributes:
        against: name of the option that it is compared to.
        settings: of the segmenter.
        templates: how many are there for each query; single ones are tried one by one.
        nearest: only so many of them are asked, those most like the query.
        kind: prompt on the templates.
        dims: of the data sets that it makes sense for.
    """

    name: str
    against: str
    settings: SegmenterSettings = AS_SERVED
    templates: int = 1
    nearest: int = 1000
    kind: PromptType = PromptType.SEGLAB
    dims: tuple[int, ...] = (2, 3)


def options() -> list[Option]:
    """Everything that is compared, what others are compared to first."""
    ways = [
        Option("as served", "as served"),
        Option(
            "planes the other way",
            "as served",
            replace(AS_SERVED, all_planes=not AS_SERVED.all_planes),
            dims=(3,),
        ),
        Option("network's size alone", "as served", replace(AS_SERVED, finer=1), dims=(2,)),
        Option("cut at one half", "as served", replace(AS_SERVED, least_probability=0.5)),
        Option("4 templates", "as served", templates=4),
        Option("4 templates, network's size alone", "4 templates", replace(AS_SERVED, finer=1), templates=4, dims=(2,)),
        Option("8 templates", "as served", templates=OF_EIGHT),
        Option("nearest of 8", "as served", templates=OF_EIGHT, nearest=1),
        Option("4 nearest of 8", "4 templates", templates=OF_EIGHT, nearest=4),
    ]
    for kind in (PromptType.BBOX, PromptType.DOODLE, PromptType.CLICK):
        ways.append(Option(kind.value, "as served", kind=kind))
    return ways


def answered(
    folder: CaseFolder, task: Task, option: Option, network: OnePrompt, promptseg: PromptSeg | None = None
) -> Iterator[Record]:
    """Dice and processor seconds of every question of a task that an option answers, by PromptSeg where it is given."""
    names = {value: folder.dataset.labels[value] for value in task.values}
    method = one_prompt(network, settings=option.settings)
    if promptseg is not None:
        method = prompt_seg(promptseg, method.segmenter, settings=option.settings)
    for question in (q for q in task.questions if q.wanted == option.templates):
        query = folder.case(question.query)
        templates = _nearest(query, [folder.case(file) for file in question.templates], option.nearest)
        began = time.process_time()
        (answer,) = method.answers([TemplateQuestion(query, tuple(templates), names)], option.kind)
        seconds = time.process_time() - began
        for value in sorted(set(answer) & folder.showing[question.query]):
            yield {
                "dataset": folder.name,
                "label": names[value],
                "option": option.name,
                "group": question.group,
                "query": question.query,
                "dice": round(100 * dice(answer[value], query.mask(value)), 3),
                "seconds": round(seconds / len(answer), 4),
            }


def _nearest(query: Case, templates: Sequence[Case], count: int) -> list[Case]:
    if len(templates) <= count:
        return list(templates)
    descriptor = study_descriptor(query.image)
    return sorted(templates, key=lambda case: -float(descriptor @ study_descriptor(case.image)))[:count]


def compared(records: Sequence[Record], ways: Sequence[Option], seed: int = 0) -> list[dict[str, Any]]:
    """One row for each option over all data sets that both it and its alternative answered, and one for each of them.

    Single templates are averaged before they are compared with a group of templates.
    """
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        cells[record["option"], record["dataset"], record["label"]][record["group"], record["query"]] = record["dice"]
        seconds[record["option"], record["dataset"]].append(record["seconds"])
    rows = []
    for option in ways:
        tasks = [key[1:] for key in cells if key[0] == option.name and (option.against, *key[1:]) in cells]
        if not tasks:
            continue
        pairs = [
            _paired(cells[option.name, dataset, label], cells[option.against, dataset, label])
            for dataset, label in tasks
        ]
        sets = [dataset for dataset, _ in tasks]
        replicates = np.array([resampled_means(pair, rng) for pair in pairs])
        over = {None: range(len(sets))} | {name: [n for n, other in enumerate(sets) if other == name] for name in sets}
        for name, members in over.items():
            inside = [sets[n] for n in members]
            spread = np.mean(
                [replicates[[n for n in members if sets[n] == one]].mean(axis=0) for one in set(inside)], axis=0
            )
            low, high = interval(spread)
            means = [float(np.mean(list(cells[option.name, sets[n], tasks[n][1]].values()))) for n in members]
            times = [
                float(np.mean(seconds[option.name, one])) / max(1e-9, float(np.mean(seconds[option.against, one])))
                for one in dict.fromkeys(inside)
            ]
            rows.append(
                {
                    "option": option.name,
                    "against": option.against,
                    "dataset": name,
                    "dice": round(mean_over_datasets(inside, means), 2),
                    "gain": round(mean_over_datasets(inside, [float(np.nanmean(pairs[n])) for n in members]), 2),
                    "low": round(low, 2),
                    "high": round(high, 2),
                    "times": round(float(np.mean(times)), 2),
                    "n": sum(int(np.isfinite(pairs[n]).sum()) for n in members),
                }
            )
    return rows


def _paired(ours: dict[tuple[str, str], float], others: dict[tuple[str, str], float]) -> np.ndarray:
    """(groups, queries) differences in Dice; one row where the groups are not the same."""
    queries = sorted({query for _, query in ours} & {query for _, query in others})
    groups = sorted({group for group, _ in ours} & {group for group, _ in others})
    if groups:
        differences = [[ours.get((g, q), np.nan) - others.get((g, q), np.nan) for q in queries] for g in groups]
        return np.array(differences)[:, np.isfinite(differences).any(axis=0)]
    means = [[np.mean([v for (_, q), v in side.items() if q == query]) for query in queries] for side in (ours, others)]
    return np.subtract(*np.array(means))[None]


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: each option over data sets, and its gain on each."""
    sets = sorted({row["dataset"] for row in rows if row["dataset"]})
    gains = {(row["option"], row["dataset"]): f"{row['gain']:+.1f}" for row in rows}
    body = [
        [
            row["option"],
            row["against"],
            f"{row['dice']:.1f}",
            f"{row['gain']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})",
            f"{row['times']:.2f}",
            *(gains.get((row["option"], name), "") for name in sets),
        ]
        for row in rows
        if row["dataset"] is None
    ]
    return table(["option", "against", "Dice", "gain, 95 %", "times as long", *sets], body)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="a data set or a folder of them (lib/learning/datasets.py)"
    )
    parser.add_argument("--split", help="only data sets of this split")
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument(
        "--promptseg", type=Path, metavar="FILE", help="compare ways of using these weights of PromptSeg"
    )
    parser.add_argument("--options", nargs="+", help="by default all", choices=[one.name for one in options()])
    parser.add_argument("--dims", type=int, choices=(2, 3), help="only images, or only volumes")
    parser.add_argument("--queries", type=int, default=6, help="images for each structure")
    parser.add_argument("--volumes", type=int, default=4, help="volumes in a 3-D data set")
    parser.add_argument("--templates", type=int, default=4, help="single templates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=PLACE, help="results; beside it .jsonl (finished work)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        network = load_network(chosen.weights)
        promptseg = load_network(chosen.promptseg, "cpu", PromptSeg) if chosen.promptseg else None
        folders = open_folders(chosen.data, chosen.split, chosen.dims)
    except (CheckpointError, DatasetError) as error:
        sys.exit(str(error))
    settings = Settings(
        chosen.queries, chosen.volumes, chosen.templates, ((4, 1), (OF_EIGHT, 1)), ((4, 1), (OF_EIGHT, 1))
    )
    ways = [one for one in options() if one.name in (chosen.options or [option.name for option in options()])]
    rows = FinishedRows(chosen.json.with_suffix(".jsonl"))
    source = source_fingerprint(ROOT / "lib", ROOT / "scripts")
    hashes = [weights_hash(one) for one in (network, promptseg) if one is not None]
    records: list[Record] = []
    for option in ways:
        for folder in (f for f in folders if f.dataset.dims in option.dims):
            for task in tasks_of(folder, settings)[0]:
                key = repr((source, *hashes, folder.fingerprint, task, option))
                new_rows = rows.get_or(key, lambda: answered(folder, task, option, network, promptseg))  # noqa: B023
                records += new_rows
                mean = np.mean([record["dice"] for record in new_rows])
                print(f"{option.name}: {folder.name} {task.values} {mean:.1f}", flush=True)
            folder.forget()
    results = compared(records, ways)
    write_atomically(chosen.json, json.dumps({"weights": hashes[-1], "rows": results}, indent=1).encode())
    print("\n" + report(results))


if __name__ == "__main__":
    main()
