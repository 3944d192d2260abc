"""UniSeg against what its paper compares it with, and from trained weights against random ones, on the same budget.

    python -m scripts.compare_uniseg --data DATA --lists mr3d_hippocampus --rows rows.jsonl --table table.md
    python -m scripts.compare_uniseg --data DATA --together --lists mr3d_hippocampus phantoms-CT --whole phantoms-CT

A list is `DATA/NAME` with images/, labels/ and dataset.json; phantoms-CT, -MR and -PT are made. Its subjects are
shuffled by the seed: the first `--labelled` are learnt from, the last `--asked` are segmented on their own grid. Each
structure is a task, of a list in `--whole` all of them together are one. `--together` learns the tasks of all lists in
one run. Variants, which begin with the same encoder and decoder and share one plan:

    universal   the universal prompt (the paper)
    one-hot     a code of the task beside the last features (what the paper argues against)
    heads       no prompt, an output layer for each task
    single      a network for each task, each with its share of the steps

`--start FILE` (a model of ours) adds each variant once more, begun with its encoder and decoder, at its sizes. Every
row is kept when it is finished, and a run keeps its course after every epoch: what is stopped, by `--minutes` or
otherwise, goes on where it stood when the same command is given again. `--models FOLDER` keeps what the universal
variant learnt, as a start.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.finetuning.course_checkpoint import load_progress, save_progress
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase
from lib.finetuning.uniseg.course import UniSegSettings, UniSegTraining, answered
from lib.finetuning.uniseg.lists import read_list
from lib.finetuning.uniseg.plan import Facts, plan_config, plan_tasks
from lib.imaging.metrics import dice
from lib.networks.checkpoints import CheckpointError
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.networks.uniseg.config import Conditioning
from lib.networks.uniseg.growth import restarted
from lib.segmenters.uniseg.model import UniSegModel, load_model, save_model
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from scripts.phantoms.data_set import write_data_set
from scripts.phantoms.phantom import TISSUES

EPOCH = 50  # steps
PHANTOMS = {f"phantoms-{modality}": modality for modality in TISSUES}
CONDITIONING: Mapping[str, Conditioning] = {
    "universal": "universal",
    "one-hot": "one-hot",
    "heads": "heads",
    "single": "heads",  # of one task: a plain U-Net
}


@dataclass(frozen=True)
class Run:
    """One training and what is asked of it; its key names the row that it gives."""

    lists: tuple[str, ...]
    whole: tuple[str, ...]
    without: tuple[str, ...]
    variant: str
    start: str
    labelled: int
    queries: int
    steps: int
    base: int
    patch: tuple[int, int, int]
    seed: int

    @property
    def key(self) -> str:
        """Names the run's files."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Part:
    """A task: its studies, with the names of its structures alone, those that are learnt from and the others."""

    name: str
    learnt: Sequence[LabelledStudy]
    queries: Sequence[LabelledStudy]


def by_subject(folder: Path, without: Sequence[str] = ()) -> dict[str, list[LabelledStudy]]:
    """Subject to its labelled studies but some, of a folder with images/, labels/ and dataset.json."""
    subjects = json.loads((folder / "dataset.json").read_text()).get("subjects", {})
    studies_by_subject: dict[str, list[LabelledStudy]] = defaultdict(list)
    for study in read_list(folder):
        if study.id not in without:
            studies_by_subject[subjects.get(study.id, study.id)].append(study)
    return studies_by_subject


def divided(
    name: str, subjects: Mapping[str, Sequence[LabelledStudy]], run: Run
) -> tuple[list[LabelledStudy], list[LabelledStudy]]:
    """The studies of a list that are learnt from, and the others.

    Raises:
        ValueError: the list has too few subjects and is alone; beside others it gives up to half of them as queries.
    """
    labelled, queries = run.labelled, run.queries
    if len(subjects) < labelled + queries:
        if len(run.lists) == 1 or len(subjects) < 2:
            raise ValueError(
                f"{name} has {len(subjects)} subjects, wanted are {labelled} labelled and {queries} others: "
                "give fewer with --labelled or --asked"
            )
        queries = min(queries, len(subjects) // 2)
        labelled = min(labelled, len(subjects) - queries)
    order = sorted(subjects)
    random.Random(run.seed).shuffle(order)
    return [subjects[one][0] for one in order[:labelled]], [subjects[one][0] for one in order[-queries:]]


def parts_of(run: Run, folders: Mapping[str, Path]) -> list[Part]:
    """The tasks of a run; structures of several lists carry their list's name, because names may recur."""
    parts = []
    for name in run.lists:
        learnt, queries = divided(name, by_subject(folders[name], run.without), run)
        structures = sorted({structure for study in learnt for structure in study.names})
        for own in [structures] if name in run.whole else [[structure] for structure in structures]:
            of_task = (name if name in run.whole else own[0], own, name if len(run.lists) > 1 else "")
            parts.append(Part(of_task[0], _with_names(learnt, *of_task[1:]), _with_names(queries, *of_task[1:])))
    return parts


def _with_names(studies: Sequence[LabelledStudy], structures: Sequence[str], of: str) -> list[LabelledStudy]:
    """Studies that know these structures alone."""
    return [
        dataclasses.replace(
            study, names={f"{of} {own}".strip(): study.names[own] for own in structures if own in study.names}
        )
        for study in studies
    ]


def beginning(run: Run, parts: Sequence[Part], start: UniSegModel | None) -> UniSegModel:
    """What all variants of a run begin with: the trained start, or random weights, at the sizes of all tasks' plan."""
    facts = {part.name: [Facts.of(study) for study in part.learnt] for part in parts}
    tasks = tuple(task for part in parts for task in plan_tasks(part.name, part.learnt, facts[part.name]))
    sizes = UniSegConfig(base=run.base, patch=run.patch, most_features=16 * run.base)
    planned = start.network.config if start else plan_config(tasks, facts, sizes)
    outputs = 1 + max(len(task.structures) for task in tasks)
    config = dataclasses.replace(planned, tasks=len(tasks), outputs=outputs, fuse_features=0)
    torch.manual_seed(run.seed)
    origin = start.network if start else UniSeg(dataclasses.replace(config, conditioning="universal"))
    network = restarted(origin, dataclasses.replace(config, conditioning=CONDITIONING[run.variant]))
    return UniSegModel(network, tasks, {})


def trainings(
    run: Run, parts: Sequence[Part], start: UniSegModel | None, folder: Path
) -> Iterator[tuple[Sequence[Part], UniSegTraining]]:
    """The courses of a run, each with its tasks: one course, or one for each task."""
    groups = [[part] for part in parts] if run.variant == "single" else [parts]
    steps = run.steps // len(groups)
    epochs = max(1, steps // EPOCH)
    begin = beginning(run, parts, start)
    for first, *others in groups:
        settings = UniSegSettings(epochs=epochs, steps=steps // epochs, keep=False, few=len(first.learnt))
        phases = [Phase("all", tuple(range(len(first.learnt))))]
        yield (
            [first, *others],
            UniSegTraining(
                first.learnt,
                settings,
                folder=folder,
                start=begin,
                others={part.name: part.learnt for part in others},
                seed=run.seed,
                phases=phases,
            ),
        )


def answers(model: UniSegModel, parts: Sequence[Part]) -> dict[str, list[float]]:
    """Dice of each structure that a query shows, on its own grid."""
    segmenter, dices = UniSegSegmenter(model), defaultdict[str, list[float]](list)
    for part in parts:
        for study in part.queries:
            for name, (mask, truth) in answered(segmenter, study, study.names).items():
                if truth.any():
                    dices[name].append(dice(mask, truth))
    return dices


def do(
    run: Run, folders: Mapping[str, Path], start: UniSegModel | None, work: Path, until: float, models: Path | None
) -> Any:
    """Train and ask; the row, or None where time ran out first."""
    parts = parts_of(run, folders)
    dices: dict[str, list[float]] = {}
    parameters, began = 0, time.process_time()
    for number, (own, course) in enumerate(trainings(run, parts, start, work)):
        checkpoint = work / f"{run.key}-{number}.safetensors"
        load_progress(checkpoint, course)
        while not course.finished:
            if time.monotonic() > until:
                return None
            course.begin_epoch()
            for _ in range(course.steps):
                course.step(course.learner, [course.draw() for _ in range(course.batch)])
            course.end_epoch()
            save_progress(checkpoint, course)
        model = course.model({"command": " ".join(sys.argv[1:])})
        dices |= answers(model, own)
        parameters += sum(value.numel() for value in model.network.parameters())
        if models and run.variant == "universal":
            save_model(models / f"{'+'.join(run.lists)}-{run.key}.safetensors", model)
    by_task = {
        part.name: round(100 * float(np.mean([np.mean(dices[name]) for name in dices if name in _names(part)])), 2)
        for part in parts
    }
    return {
        **dataclasses.asdict(run),
        "dice": round(float(np.mean(list(by_task.values()))), 2),
        "tasks": by_task,
        "structures": {name: round(100 * float(np.mean(values)), 2) for name, values in dices.items()},
        "parameters": parameters,
        "processor_seconds": round(time.process_time() - began, 1),  # of this process
    }


def _names(part: Part) -> set[str]:
    return {name for study in part.learnt for name in study.names}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean Dice of tasks over seeds, with the standard deviation where there are several; each task's own."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        key = ("+".join(row["lists"]), row["labelled"], row["steps"], row["variant"], row["start"] or "random")
        groups[key].append(row)
    lines = ["| lists | labelled | steps | variant | start | Dice | of each task | seeds |", "|" + "---|" * 8]
    for key, own in sorted(groups.items()):
        values = [float(row["dice"]) for row in own]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        tasks = ", ".join(f"{name} {np.mean([row['tasks'][name] for row in own]):.1f}" for name in own[0]["tasks"])
        lines.append(f"| {' | '.join(map(str, key))} | {np.mean(values):.1f}{spread} | {tasks} | {len(values)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when all rows are there, 2 when time ran out before."""
    options = _parser().parse_args(arguments)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    known = {row["key"] for row in rows}
    until = time.monotonic() + 60 * options.minutes
    work = options.rows.with_suffix(".work")
    for folder in filter(None, (work, options.models)):
        folder.mkdir(parents=True, exist_ok=True)
    left = 0
    try:
        model = load_model(options.start) if options.start else None
        folders = _folders(options, work)
        for run in _runs(options, model):
            if run.key in known:
                continue
            row = do(run, folders, model if run.start else None, work, until, options.models)
            if row is None:
                left += 1
                continue
            rows.append({"key": run.key, **row})
            with options.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.table:
        options.table.write_text(table(rows))
    if left:
        print(f"time is up, {left} runs are left: give the same command again", file=sys.stderr)
    return 2 if left else 0


def _folders(options: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Where each list lies; phantoms are made there."""
    folders = {}
    for name in options.lists:
        folders[name] = (work if name in PHANTOMS else options.data) / name
        if name in PHANTOMS:
            write_data_set(folders[name], PHANTOMS[name], max(options.labelled) + options.queries)
    return folders


def _runs(options: argparse.Namespace, model: UniSegModel | None) -> Iterator[Run]:
    starts = ["", model.hash] if model else [""]
    groups = [tuple(options.lists)] if options.together else [(name,) for name in options.lists]
    sizes = options.base, tuple(options.patch)
    for seed, lists, labelled, variant, start in product(
        range(options.seeds), groups, options.labelled, options.variants, starts
    ):
        whole, without = tuple(name for name in lists if name in options.whole), tuple(options.without)
        budget = labelled, options.queries, options.steps
        yield Run(lists, whole, without, variant, start, *budget, *sizes, seed)


def _parser() -> argparse.ArgumentParser:
    small = UniSegConfig.small()
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare_uniseg", description="UniSeg against its variants."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of lists")
    parser.add_argument("--lists", nargs="+", required=True, help=f"names of lists in it, or {', '.join(PHANTOMS)}")
    parser.add_argument("--together", action="store_true", help="learn the tasks of all lists in one run")
    parser.add_argument("--whole", nargs="+", default=[], metavar="LIST", help="lists that are one task each")
    parser.add_argument("--without", nargs="+", default=[], metavar="STUDY", help="studies that are left out")
    parser.add_argument("--variants", nargs="+", choices=list(CONDITIONING), default=list(CONDITIONING))
    parser.add_argument("--labelled", nargs="+", type=int, default=[16], help="labelled studies (%(default)s)")
    parser.add_argument(
        "--asked", dest="queries", type=int, default=12, help="studies that are asked about (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of a run, all networks together (%(default)s)")
    parser.add_argument("--base", type=int, default=small.base, help="features at full resolution (%(default)s)")
    parser.add_argument(
        "--patch", type=int, nargs=3, default=small.patch, metavar="N", help="its voxels are the most (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="a model of ours to begin with, beside random weights"
    )
    parser.add_argument("--rows", type=Path, default=Path("uniseg.jsonl"), help="what is finished (%(default)s)")
    parser.add_argument("--table", type=Path, help="Markdown")
    parser.add_argument("--models", type=Path, help="folder for what the universal variant learnt")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many (never)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
