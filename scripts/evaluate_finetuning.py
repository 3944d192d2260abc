"""What fine-tuning gives: Dice on the rest of a list before and after learning from 1, 4, 16 labelled studies.

    python -m scripts.evaluate_finetuning --data DATA --lists us_nerve mr_gi_uwm --rows rows.jsonl --table table.md

Subjects are shuffled by the seed: the first are labelled, the last are asked. Templates are the labelled studies, at
most four as in serving, and then the first of them alone, the same before and after. Where the verdict is against the
candidate, what is served afterwards is what was served before, and the table says so. Every row is kept as soon as it
is finished, so a killed run goes on where it stopped.
`--only-final` leaves cross-validation out and learns from all labelled studies at once: enough to compare settings.
Among the `--modes` are those of `lib.adapters`, and `specialist`: a network for this list alone (`lib.specialist`),
judged against One-Prompt as it ships. It needs no templates, so it has one figure for all of them and for one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.adapters import MODES
from lib.checkpoints import SHIPPED_WEIGHTS, load_network, weights_hash
from lib.course import LabelledStudy, Phase, run
from lib.datasets import Dataset, read_dataset
from lib.examination import Examined, overlap, template_dice
from lib.finetuning import FineTune, FineTuning
from lib.images import read_label
from lib.networks import OnePrompt
from lib.predictor import Given, Predictor
from lib.specialist import Specialist
from lib.specialist_training import SpecialistSettings, SpecialistTraining, specialist_dice
from lib.templates import Template
from scripts.evaluation.cases import CaseFolder
from scripts.evaluation.store import FinishedRows

MOST_TEMPLATES = 4
SPECIALIST = "specialist"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet and write the table."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = load_network(options.weights)
    rows, found = FinishedRows(options.rows), []
    for name in options.lists:
        dataset = read_dataset(options.data / name)
        if dataset.about.get("split") == "train":
            raise SystemExit(f"{name} is a list that pretraining may have seen: choose others")
        folder = CaseFolder.open(dataset)
        for seed, labelled, mode in ((s, k, m) for s in options.seeds for k in options.labelled for m in options.modes):
            tuning = _settings(options.settings, mode)
            plan = _Plan(folder, labelled, seed, options.queries if dataset.dims == 2 else options.volume_queries)
            lacking = plan.lacking
            if isinstance(tuning, SpecialistSettings) and labelled < tuning.least:
                lacking = f"a specialist needs {tuning.least} labelled studies, not {labelled}"
            if lacking:
                print(f"{name}: {lacking}")
                continue
            key = json.dumps([name, labelled, mode, seed, weights_hash(network), dataclasses.asdict(tuning),
                              options.only_final, len(plan.queries)])  # fmt: skip
            found += rows.get(key) or rows.put(key, [measure(network, plan, tuning, rows, options.only_final)])
            print(_line(found[-1]), flush=True)
    table = report(found) + quality_line(found)
    print(table)
    if options.table:
        options.table.write_text(table)
    return 0


class _Plan:
    """Which studies of a list are labelled and which are asked."""

    def __init__(self, folder: CaseFolder, labelled: int, seed: int, queries: int) -> None:
        dataset = folder.dataset
        first = {dataset.subjects[file]: file for file in reversed(dataset.files) if folder.showing.get(file)}
        files = [first[subject] for subject in sorted(first)]
        order = [files[index] for index in np.random.default_rng(seed).permutation(len(files))]
        self.name, self.seed, self.labelled = dataset.name, seed, labelled
        self.lacking = (
            "" if len(order) > labelled else f"{len(order)} subjects are too few for {labelled} labelled ones"
        )
        self.studies = [_study(dataset, file) for file in order[:labelled]]
        self.queries = [_study(dataset, file) for file in order[labelled:][-queries:]]


def measure(
    network: OnePrompt,
    plan: _Plan,
    settings: FineTuning | SpecialistSettings,
    rows: FinishedRows,
    only_final: bool = False,
) -> dict[str, Any]:
    """One row: Dice (0 to 100) of the queries with the parent and with the candidate, the verdict, processor time.

    `before` and `after` are with all templates, `before_one` and `after_one` with the first alone. A candidate that the
    cross-validation refused is the network of its last fold. What the parent answers from the same templates is kept in
    `rows` too: it is the same for any settings.
    """
    phases = [Phase("all studies", tuple(range(plan.labelled)))] if only_final else None
    started, used = time.monotonic(), time.process_time()
    course: FineTune | SpecialistTraining
    if isinstance(settings, SpecialistSettings):
        course = run(SpecialistTraining(network, plan.studies, settings, seed=plan.seed, phases=phases))
    else:
        course = run(FineTune(network, plan.studies, settings, seed=plan.seed, phases=phases))
    seconds, used = time.monotonic() - started, time.process_time() - used
    better, reason = course.verdict()
    templates = [study.read() for study in plan.studies[:MOST_TEMPLATES]]
    queries = [study.read() for study in plan.queries]
    parent = weights_hash(network)
    key = json.dumps(["before", plan.name, parent, [study.id for study in templates], [study.id for study in queries]])
    [before] = rows.get_or(key, lambda: [_dice(network, templates, queries)])
    judged: list[tuple[float, float]] = []
    if isinstance(course, SpecialistTraining):
        dice = round(100 * Examined(specialist_dice(course.specialist, queries)).mean_dice, 2)
        after = {"all": dice, "one": dice}
        judged = _judged(network, course.specialist, templates, queries)
    else:
        after = _dice(course.network, templates, queries)
    return {
        **{"list": plan.name, "labelled": plan.labelled, "mode": _mode(settings), "seed": plan.seed},
        **{"before": before["all"], "after": after["all"], "before_one": before["one"], "after_one": after["one"]},
        **{"published": bool(better), "reason": reason},
        **{"queries": len(queries), "seconds": round(seconds, 1), "cpu_seconds": round(used, 1)},
        "weights": parent,
        "judged": judged,
        "only_final": only_final,
    }


def report(rows: Iterable[dict[str, Any]]) -> str:
    """A Markdown table, a line for each list, number of labelled studies and mode, means over seeds; then their means.

    "After" is what is served afterwards: the candidate where it is published, else the parent.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["list"], row["labelled"], row["mode"]), []).append(row)
    lines = [
        "| list | labelled | what learns | Dice before | after | gain | worst seed | published "
        "| one template before | after | processor time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
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
    published = "" if rows[0]["only_final"] else f"{sum(row['published'] for row in rows)} of {len(rows)}"
    return (
        f"| {name} | {labelled} | {mode} | {before:.1f} | {after:.1f} | {np.mean(gains):+.1f} | {min(gains):+.1f} "
        f"| {published} | {one_before:.1f} | {one_after:.1f} | {used:.0f} s |"
    )


def _served(row: dict[str, Any], which: str) -> float:
    """The Dice of what is served after the verdict."""
    taken = row["published"] or row["only_final"]
    return float(row[f"{'after' if taken else 'before'}{which}"])


def _dice(network: OnePrompt, templates: Sequence[Template], queries: Sequence[Template]) -> dict[str, float]:
    """With `all` templates, and with the first `one` alone."""

    def mean(some: Sequence[Template]) -> float:
        found = template_dice(network, [(some, query) for query in queries])
        return round(100 * Examined(found).mean_dice, 2)

    every = mean(templates)
    return {"all": every, "one": every if len(templates) == 1 else mean(templates[:1])}


def _judged(
    network: OnePrompt, specialist: Specialist, templates: Sequence[Template], queries: Sequence[Template]
) -> list[tuple[float, float]]:
    """(predicted, true) Dice of every mask that the specialist makes, judged as in serving."""
    predictor, found = Predictor(network), []
    for query in queries:
        shown = {name for template in templates for name in template.structures}
        labels = {name: value for name, value in specialist.labels.items() if name in shown}
        if not labels or query.label is None:
            continue
        given = Given(specialist.segment(query.image), labels)
        prediction = predictor.segment(query.image, templates, labels, given=given)
        for name, value in labels.items():
            if name not in query.structures:
                continue
            true = overlap(prediction.mask == value, query.label == query.names[name])
            found.append((round(prediction.quality[name], 4), round(true, 4)))
    return found


def quality_line(rows: Sequence[dict[str, Any]]) -> str:
    """How well One-Prompt predicts the Dice of the specialists' masks, where they won; empty without any."""
    pairs = np.array([pair for row in rows if row["published"] for pair in row.get("judged", ())])
    if len(pairs) < 3:
        return ""
    error, agreement = np.abs(pairs[:, 0] - pairs[:, 1]).mean(), np.corrcoef(pairs.T)[0, 1]
    low = (pairs[:, 0] - pairs[:, 1]).mean()
    return (
        f"\nPredicted Dice of the {len(pairs)} masks of specialists that won, without corrections: mean error "
        f"{error:.3f} ({low:+.3f} on the whole), correlation {agreement:.2f}.\n"
    )


def _settings(text: str, mode: str) -> FineTuning | SpecialistSettings:
    if mode != SPECIALIST:
        return dataclasses.replace(FineTuning.parse(text), mode=mode)
    if text:
        raise SystemExit("--settings are of One-Prompt: measure specialists in a run without them")
    return SpecialistSettings()


def _mode(settings: FineTuning | SpecialistSettings) -> str:
    return SPECIALIST if isinstance(settings, SpecialistSettings) else settings.mode


def _study(dataset: Dataset, file: str) -> LabelledStudy:
    image, label = (dataset.folder / kind / file for kind in ("images", "labels"))
    present = set(np.unique(read_label(label)).tolist())
    names = {name: value for value, name in dataset.labels.items() if value in present}
    return LabelledStudy(file, image, label, names)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['list']} {row['labelled']} {row['mode']} seed {row['seed']}: {row['before']:.1f} to {row['after']:.1f}, "
        f"{'better' if row['published'] else 'not better'} ({row['reason']}), {row['cpu_seconds']:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets (see lib/datasets.py)")
    parser.add_argument("--lists", nargs="+", required=True, help="names of data sets that pretraining never saw")
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--labelled", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--modes", nargs="+", choices=[*MODES, SPECIALIST], default=[FineTuning().mode])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--queries", type=int, default=10, help="images asked of a 2-D list")
    parser.add_argument("--volume-queries", type=int, default=3, help="volumes asked of a 3-D list")
    parser.add_argument("--settings", default="", help="numbers of lib.finetuning.FineTuning, as epochs=2,steps=10")
    parser.add_argument("--only-final", action="store_true", help="without cross-validation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, required=True, help="finished rows (JSON lines)")
    parser.add_argument("--table", type=Path, help="write the table here too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
