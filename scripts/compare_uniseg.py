"""UniSeg against what its paper compares it with, and from trained weights against random ones, on the same budget.

    python -m scripts.compare_uniseg --data DATA --lists mr3d_hippocampus --rows rows.jsonl --table table.md

A list is `DATA/NAME` with images/, labels/ and dataset.json. Its subjects are shuffled by the seed: the first
`--labelled` are learnt from, the last `--asked` are segmented on their own grid. Each structure is a task. Variants:

    universal   the universal prompt (the paper)
    one-hot     a code of the task beside the last features (what the paper argues against)
    heads       no prompt, an output layer for each task
    single      a network for each task, each with its share of the steps

`--start FILE` (a model of ours) adds each variant once more, begun with its encoder and decoder. Every row is kept
when it is finished, and a run keeps its course after every epoch: what is stopped, by `--minutes` or otherwise, goes on
where it stood when the same command is given again. `--models FOLDER` keeps what the universal variant learnt, as a
start.
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
from pathlib import Path
from typing import Any

import numpy as np

from lib.finetuning.course_checkpoint import load_progress, save_progress
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase
from lib.finetuning.uniseg.course import UniSegSettings, UniSegTraining
from lib.finetuning.uniseg.lists import read_list
from lib.networks.checkpoints import CheckpointError
from lib.networks.uniseg import UniSegConfig
from lib.networks.uniseg.config import Conditioning
from lib.networks.uniseg.growth import restarted
from lib.segmenters.uniseg.model import UniSegModel, load_model, save_model

EPOCH = 50  # steps
CONDITIONING: Mapping[str, Conditioning] = {
    "universal": "universal",
    "one-hot": "one-hot",
    "heads": "heads",
    "single": "heads",  # of one task: a plain U-Net
}


@dataclass(frozen=True)
class Run:
    """One training and what is asked of it; its key names the row that it gives."""

    list: str
    variant: str
    start: str
    labelled: int
    queries: int
    steps: int
    seed: int

    @property
    def key(self) -> str:
        """Names the run's files."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def by_subject(folder: Path) -> dict[str, list[LabelledStudy]]:
    """Subject to its labelled studies, of a folder with images/, labels/ and dataset.json."""
    subjects = json.loads((folder / "dataset.json").read_text()).get("subjects", {})
    studies_by_subject: dict[str, list[LabelledStudy]] = defaultdict(list)
    for study in read_list(folder):
        studies_by_subject[subjects.get(study.id, study.id)].append(study)
    return studies_by_subject


def divided(subjects: Mapping[str, Sequence[LabelledStudy]], run: Run) -> tuple[list[LabelledStudy], int]:
    """The studies of a run, those that are learnt from first, and how many they are.

    Raises:
        ValueError: the list has too few subjects.
    """
    if len(subjects) < run.labelled + run.queries:
        raise ValueError(
            f"{run.list} has {len(subjects)} subjects, wanted are {run.labelled} labelled and {run.queries} others: "
            "give fewer with --labelled or --asked"
        )
    order = sorted(subjects)
    random.Random(run.seed).shuffle(order)
    learnt = [subjects[name][0] for name in order[: run.labelled]]
    return learnt + [subjects[name][0] for name in order[-run.queries :]], run.labelled


def trainings(
    run: Run, studies: Sequence[LabelledStudy], learnt: int, start: UniSegModel | None, folder: Path
) -> Iterator[UniSegTraining]:
    """The courses of a run: one, or one for each structure."""
    structures = sorted({name for study in studies for name in study.names})
    parts = [[name] for name in structures] if run.variant == "single" else [structures]
    epochs = max(1, run.steps // EPOCH)
    settings = UniSegSettings(
        epochs=max(1, epochs // len(parts)),
        steps=EPOCH,
        apart=True,
        keep=False,
        most_queries=run.queries,
        few=len(studies),
    )
    conditioning: Conditioning = CONDITIONING[run.variant]
    sizes = dataclasses.replace(UniSegConfig.small(), conditioning=conditioning)
    phases = [Phase("all", tuple(range(learnt)), tuple(range(learnt, len(studies))))]
    for part in parts:
        own = [
            dataclasses.replace(study, names={name: study.names[name] for name in part if name in study.names})
            for study in studies
        ]
        begin = None
        if start is not None:
            config = dataclasses.replace(start.network.config, conditioning=conditioning)
            begin = dataclasses.replace(start, network=restarted(start.network, config))
        yield UniSegTraining(own, settings, folder=folder, sizes=sizes, start=begin, seed=run.seed, phases=phases)


def do(run: Run, data: Path, start: UniSegModel | None, work: Path, until: float, models: Path | None) -> Any:
    """Train and ask; the row, or None where time ran out first."""
    studies, learnt = divided(by_subject(data / run.list), run)
    dice: dict[str, tuple[float, ...]] = {}
    parameters, seconds = 0, 0.0
    for number, course in enumerate(trainings(run, studies, learnt, start, work)):
        checkpoint = work / f"{run.key}-{number}.safetensors"
        load_progress(checkpoint, course)
        began = time.monotonic()
        while not course.finished:
            if time.monotonic() > until:
                return None
            course.begin_epoch()
            for _ in range(course.steps):
                course.step(course.learner, [course.draw() for _ in range(course.batch)])
            course.end_epoch()
            save_progress(checkpoint, course)
        seconds += time.monotonic() - began
        dice |= {name: tuple(values) for name, values in course.after.dice.items()}
        parameters += sum(value.numel() for value in course.learner.network.parameters())
        if models and run.variant == "universal":
            save_model(models / f"{run.list}-{run.key}.safetensors", course.model({"command": " ".join(sys.argv[1:])}))
    mean = float(np.mean([np.mean(values) for values in dice.values()]))
    return {
        **dataclasses.asdict(run),
        "dice": round(100 * mean, 2),
        "structures": {name: round(100 * float(np.mean(values)), 2) for name, values in dice.items()},
        "parameters": parameters,
        "seconds_of_this_process": round(seconds, 1),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean Dice over seeds, with the standard deviation where there are several."""
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        key = (row["list"], row["labelled"], row["steps"], row["variant"], row["start"] or "random")
        groups[key].append(float(row["dice"]))
    lines = ["| list | labelled | steps | variant | start | Dice | seeds |", "|---|---|---|---|---|---|---|"]
    for key, values in sorted(groups.items()):
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        lines.append(f"| {' | '.join(map(str, key))} | {np.mean(values):.1f}{spread} | {len(values)} |")
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
        for run in _runs(options, model):
            if run.key in known:
                continue
            row = do(run, options.data, model if run.start else None, work, until, options.models)
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


def _runs(options: argparse.Namespace, model: UniSegModel | None) -> Iterator[Run]:
    starts = ["", model.hash] if model else [""]
    for seed in range(options.seeds):
        for name in options.lists:
            for labelled in options.labelled:
                for variant in options.variants:
                    for start in starts:
                        yield Run(name, variant, start, labelled, options.queries, options.steps, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare_uniseg", description="UniSeg against its variants."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of lists")
    parser.add_argument("--lists", nargs="+", required=True, help="names of lists in it")
    parser.add_argument("--variants", nargs="+", choices=list(CONDITIONING), default=list(CONDITIONING))
    parser.add_argument("--labelled", nargs="+", type=int, default=[16], help="labelled studies (%(default)s)")
    parser.add_argument(
        "--asked", dest="queries", type=int, default=12, help="studies that are asked about (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of a run, all networks together (%(default)s)")
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
