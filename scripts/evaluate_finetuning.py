"""What fine-tuning gives: Dice on the rest of a list before and after learning from 1, 4, 16 labelled studies.

    python -m scripts.evaluate_finetuning --data DATA --lists us_nerve mr_gi_uwm --rows rows.jsonl --table table.md

Subjects are shuffled by the seed: the first are labelled, the last are asked. Templates are the labelled studies, at
most four as in serving, and then the first of them alone, the same before and after. Where the verdict is against the
candidate, what is served afterwards is what was served before, and the table says so. PromptSeg as it ships, which
segments lists with two labels or more before a training, is asked the same with at most eight of them. Every row is
kept as soon as it is finished, so a killed run goes on where it stopped.
`--only-final` leaves cross-validation out and learns from all labelled studies at once: enough to compare settings.
Among the `--modes` are those of `lib.learning.adapters`; `specialist`: One-Prompt as it ships with a network for this
list alone (`lib.segmenters.list_unet`) where that is better; and `both`: fine-tuned One-Prompt and that network,
each where its own verdict says so, which is what *Train* gives. With `--networks` what was learnt is kept in that
folder, so that `both` trains nothing that was trained before (by this very code and these labels: neither is looked
at).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.finetuning.course import run
from lib.finetuning.examination import Scores, template_dice
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_unet_training import ListUNetSettings, ListUNetTraining, parts_of
from lib.finetuning.oneprompt import FineTune
from lib.finetuning.phases import Phase, held_out_ids, phases_of
from lib.finetuning.tuning import FineTuning
from lib.imaging.images import read_label
from lib.imaging.metrics import dice
from lib.inference.templates import Template
from lib.learning.adapters import MODES
from lib.learning.datasets import Dataset, read_dataset
from lib.networks import OnePrompt
from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network, read_provenance, save_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.list_unet import ListUNet, load_list_unet, save_list_unet
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG
from lib.segmenters.promptseg import TEMPLATES as PROMPTSEG_TEMPLATES
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import CaseFolder
from scripts.measure.evaluation.store import FinishedRows
from scripts.measure.finetuning_report import LIST_UNET, quality_line, report, row_line

MOST_TEMPLATES = 4
FINE_TUNED, BOTH = "fine-tuned", "both"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet and write the table."""
    options = _parser().parse_args(arguments)
    if options.only_final and {LIST_UNET, BOTH} & set(options.modes):
        raise SystemExit(
            "--only-final asks nothing, and how much say a list-specific U-Net has comes from what is asked"
        )
    torch.set_num_threads(options.threads)
    network = load_network(options.weights)
    estimator = Estimator.valid_for(weights_hash(network), options.weights)
    rows, records = FinishedRows(options.rows), []
    for name in options.lists:
        dataset = read_dataset(options.data / name)
        if dataset.about.get("split") == "train":
            raise SystemExit(f"{name} is a list that pretraining may have seen: choose others")
        folder = CaseFolder.open(dataset)
        for seed, labelled, mode in ((s, k, m) for s in options.seeds for k in options.labelled for m in options.modes):
            plan = _Plan(folder, labelled, seed, options.queries if dataset.dims == 2 else options.volume_queries)
            if plan.lacking:
                print(f"{name}: {plan.lacking}")
                continue
            tuning, list_unet = _settings(options.settings, mode)
            numbers = [dataclasses.asdict(settings) for settings in (tuning, list_unet) if settings]
            key = json.dumps(
                [name, labelled, mode, seed, weights_hash(network), *numbers, options.only_final, len(plan.queries)]
            )
            trainer = _Trainer(network, estimator, plan, options.only_final, options.networks)
            records += rows.get(key) or rows.put(key, [measure(trainer, tuning, list_unet, rows)])
            print(row_line(records[-1]), flush=True)
    table = report(records) + quality_line(records)
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


@dataclass(frozen=True)
class Learnt:
    """What came out of a course.

    Attributes:
        network: the candidate, or the list-specific U-Net.
        better: what the verdict was, and why.
        cpu_seconds: processor time of the course.
    """

    network: Any
    better: bool
    reason: str
    cpu_seconds: float


class _Trainer:
    """Trains on the labelled studies of a plan, or takes what was learnt from them before."""

    def __init__(
        self, network: OnePrompt, estimator: Estimator | None, plan: _Plan, only_final: bool, folder: Path | None
    ) -> None:
        self.network, self.estimator, self.plan = network, estimator, plan
        self.only_final, self._folder = only_final, folder

    def tuned(self, settings: FineTuning) -> Learnt:
        """One-Prompt, fine-tuned."""

        def train() -> tuple[OnePrompt, bool, str]:
            studies, seed = self.plan.studies, self.plan.seed
            phases = [Phase("all studies", tuple(range(len(studies))))] if self.only_final else None
            course = run(FineTune(self.network, studies, settings, seed=seed, phases=phases))
            return course.network, *course.verdict()

        def read(path: Path) -> tuple[OnePrompt, Mapping[str, Any]]:
            return load_network(path), read_provenance(path)

        return self._learnt([settings], train, read, save_network)

    def list_unet(self, settings: ListUNetSettings, beside: OnePrompt) -> Learnt:
        """The list-specific U-Net beside a One-Prompt to which what is held out is new."""

        def read(path: Path) -> tuple[ListUNet, Mapping[str, Any]]:
            unet = load_list_unet(path)
            return unet, unet.record

        def write(path: Path, unet: ListUNet, record: Mapping[str, Any]) -> None:
            save_list_unet(path, dataclasses.replace(unet, record=record))

        def train() -> tuple[ListUNet, bool, str]:
            studies = parts_of(self.plan.studies)
            course = run(ListUNetTraining(beside, studies, settings, seed=self.plan.seed))
            return course.list_unet, *course.verdict()

        return self._learnt([settings, weights_hash(beside)], train, read, write)

    def parent(self, tuned: Learnt | None, tuning: FineTuning | None, settings: ListUNetSettings) -> OnePrompt:
        """What the list-specific U-Net is compared beside: fine-tuned weights, unless they learnt what is held out."""
        if not (tuned and tuning and tuned.better):
            return self.network
        studies = self.plan.studies
        learnt = {studies[place].id for place in phases_of(studies, tuning)[-1].training}
        known = learnt & held_out_ids(parts_of(studies), settings)
        return self.network if known else tuned.network

    def _learnt(
        self,
        depends_on: Sequence[Any],
        train: Callable[[], tuple[Any, bool, str]],
        read: Callable[[Path], tuple[Any, Mapping[str, Any]]],
        save: Callable[[Path, Any, Mapping[str, Any]], None],
    ) -> Learnt:
        key = [[study.id for study in self.plan.studies], self.plan.seed, self.only_final, weights_hash(self.network)]
        digest = hashlib.sha256(json.dumps([*key, *depends_on], default=dataclasses.asdict).encode()).hexdigest()[:16]
        path = self._folder / f"{self.plan.name}_{self.plan.labelled}_{digest}.safetensors" if self._folder else None
        if path and path.exists():
            network, record = read(path)
            return Learnt(network, bool(record["better"]), str(record["reason"]), float(record["cpu_seconds"]))
        used = time.process_time()
        network, better, reason = train()
        outcome = Learnt(network, better, reason, round(time.process_time() - used, 1))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, network, {"better": better, "reason": reason, "cpu_seconds": outcome.cpu_seconds})
        return outcome


def measure(
    trainer: _Trainer, tuning: FineTuning | None, unet_settings: ListUNetSettings | None, rows: FinishedRows
) -> dict[str, Any]:
    """One row: Dice (0 to 100) of the queries with what ships and with what is served afterwards, processor time.

    `before` and `after` are with all templates, `before_one` and `after_one` with the first alone. `after` is that of
    the candidate also where the verdict is against it, but `both` takes of each part what its verdict says. A candidate
    that the cross-validation refused is the network of its last fold. What is answered before is kept in `rows` too: it
    is the same for any settings.
    """
    plan, network = trainer.plan, trainer.network
    learnt = {FINE_TUNED: trainer.tuned(tuning)} if tuning else {}
    if unet_settings:
        beside_what = trainer.parent(learnt.get(FINE_TUNED), tuning, unet_settings)
        learnt[LIST_UNET] = trainer.list_unet(unet_settings, beside_what)
    alone = len(learnt) == 1
    used = {name: own for name, own in learnt.items() if alone or own.better}
    templates = [study.read() for study in plan.studies[:MOST_TEMPLATES]]
    queries = [study.read() for study in plan.queries]
    parent = weights_hash(network)
    key = json.dumps(["before", plan.name, parent, [study.id for study in templates], [study.id for study in queries]])
    [before] = rows.get_or(key, lambda: [_dice(network, None, templates, queries)])
    promptseg = _promptseg_dice([study.read() for study in plan.studies[:PROMPTSEG_TEMPLATES]], queries)
    served = used[FINE_TUNED].network if FINE_TUNED in used else network
    beside = used[LIST_UNET].network if LIST_UNET in used else None
    after = _dice(served, beside, templates, queries) if used else before
    return {
        **{"list": plan.name, "labelled": plan.labelled, "mode": _mode(tuning, unet_settings), "seed": plan.seed},
        **{"before": before["all"], "after": after["all"], "before_one": before["one"], "after_one": after["one"]},
        "promptseg": promptseg,
        "published": any(own.better for own in learnt.values()),
        "reason": "; ".join(own.reason for own in learnt.values()),
        "won": [name for name, own in learnt.items() if own.better],
        "share": beside.weight if beside else 0,
        "queries": len(queries),
        "cpu_seconds": round(sum(own.cpu_seconds for own in learnt.values()), 1),
        "weights": parent,
        "judged": _quality_pairs(served, trainer.estimator, beside, templates, queries) if beside else [],
        "only_final": trainer.only_final,
    }


def _dice(
    network: OnePrompt, unet: ListUNet | None, templates: Sequence[Template], queries: Sequence[Template]
) -> dict[str, float]:
    """With `all` templates, and with the first `one` alone."""
    seconds = [unet.opinion(query.image) if unet else None for query in queries]

    def mean(some: Sequence[Template]) -> float:
        scores = template_dice(network, [(some, query) for query in queries], seconds=seconds)
        return round(100 * Scores(scores).mean_dice, 2)

    every = mean(templates)
    return {"all": every, "one": every if len(templates) == 1 else mean(templates[:1])}


def _promptseg_dice(templates: Sequence[Template], queries: Sequence[Template]) -> float | None:
    """Of PromptSeg as it ships; None of a single template, which is not its to answer."""
    if len(templates) < 2:
        return None
    network = load_network(SHIPPED_PROMPTSEG, "cpu", PromptSeg)
    scores = template_dice(network, [(templates, query) for query in queries], most=PROMPTSEG_TEMPLATES)
    return round(100 * Scores(scores).mean_dice, 2)


def _quality_pairs(
    network: OnePrompt,
    estimator: Estimator | None,
    unet: ListUNet,
    templates: Sequence[Template],
    queries: Sequence[Template],
) -> list[tuple[float, float]]:
    """(predicted, true) Dice of every mask that the list-specific U-Net takes part in, estimated as in serving.

    Empty where no estimator was fitted for the weights that all of this began with.
    """
    if estimator is None:
        return []
    segmenter, scores = SliceSegmenter(network, estimator=estimator), []
    for query in queries:
        shown = {name for template in templates for name in template.structures}
        names = [name for name in query.structures if name in shown and name in unet.structures]
        labels = {name: value for value, name in enumerate(names, start=1)}
        if not labels or query.label is None:
            continue
        prediction = segmenter.segment(query.image, templates, labels, second=unet.opinion(query.image))
        for name, value in labels.items():
            true = dice(prediction.mask == value, query.label == query.names[name])
            scores.append((round(prediction.quality[name], 4), round(true, 4)))
    return scores


def _settings(text: str, mode: str) -> tuple[FineTuning | None, ListUNetSettings | None]:
    """Of the courses that a mode consists of."""
    if mode == LIST_UNET:
        if text:
            raise SystemExit("--settings are of fine-tuning: measure list-specific U-Nets in a run without them")
        return None, ListUNetSettings()
    tuning = FineTuning.parse(text)
    return (tuning, ListUNetSettings()) if mode == BOTH else (dataclasses.replace(tuning, mode=mode), None)


def _mode(tuning: FineTuning | None, list_unet: ListUNetSettings | None) -> str:
    if tuning and list_unet:
        return BOTH
    return tuning.mode if tuning else LIST_UNET


def _study(dataset: Dataset, file: str) -> LabelledStudy:
    image, label = (dataset.folder / kind / file for kind in ("images", "labels"))
    present = set(np.unique(read_label(label)).tolist())
    names = {name: value for value, name in dataset.labels.items() if value in present}
    return LabelledStudy(file, image, label, names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets (see lib/learning/datasets.py)")
    parser.add_argument("--lists", nargs="+", required=True, help="names of data sets that pretraining never saw")
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--labelled", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--modes", nargs="+", choices=[*MODES, LIST_UNET, BOTH], default=[FineTuning().mode])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--queries", type=int, default=10, help="images asked of a 2-D list")
    parser.add_argument("--volume-queries", type=int, default=3, help="volumes asked of a 3-D list")
    parser.add_argument(
        "--settings", default="", help="numbers of lib.finetuning.tuning.FineTuning, as epochs=2,steps=10"
    )
    parser.add_argument("--only-final", action="store_true", help="without cross-validation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=Path, help="folder in which what was learnt is kept")
    parser.add_argument("--rows", type=Path, required=True, help="finished rows (JSON lines)")
    parser.add_argument("--table", type=Path, help="write the table here too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
