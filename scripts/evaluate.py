"""Measure weights on any folder of labelled data: `python -m scripts.evaluate --data DIR [--split NAME] [--json OUT]`.

One-Prompt with every kind of prompt on 1, 4 and 16 templates, and interactively under a simulated clicker, beside the
baselines on the same pairs: copying the template's mask, registration, prototypes, and for clicks MONAI Label's
scribbles and the random walker. Tables are printed; the JSON holds every number, the HTML beside it shows the best and
the worst answers. Finished work is kept in a third file: start the same command again and it goes on where it stopped.

PromptSeg is a further method where its weights are given, with as many templates in a pass as are asked together:
`--promptseg FILE --methods One-Prompt PromptSeg --several 2 4 8 16`. A name with " (one wrong)" behind it is the same
method with the label of one of several templates moved to another place.

Data sets of the split `eval` are to be looked at once for each version that ships: choose on `dev`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lib.imaging.files import write_atomically
from lib.learning.datasets import DatasetError, read_datasets
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg
from scripts.measure.evaluation.cases import CaseFolder
from scripts.measure.evaluation.curves import draw_by_templates
from scripts.measure.evaluation.gallery import Picture, click_pictures, template_pictures, write_page
from scripts.measure.evaluation.panel import EXTRA, METHODS, Panel, panels
from scripts.measure.evaluation.plan import Settings
from scripts.measure.evaluation.report import report
from scripts.measure.evaluation.segmenters import PROMPT_SEG
from scripts.measure.evaluation.store import FinishedRows, Record, source_fingerprint
from scripts.measure.evaluation.summary import summarise
from scripts.measure.evaluation.work import PROMPT_KINDS, Unit, units_of

ROOT = Path(__file__).resolve().parents[1]
PLACE = Path("evaluation")  # of results without --json; ignored by git


class Evaluation:
    """One run over some data sets.

    Args:
        folders: opened data sets.
        methods: for 2-D and 3-D data.
        rows: where finished work is kept.
        seconds: after which no further unit of work is begun.
        prompts: of `work.PROMPT_KINDS`.
    """

    def __init__(
        self,
        folders: Sequence[CaseFolder],
        methods: Mapping[int, Panel],
        settings: Settings,
        rows: FinishedRows,
        seconds: float,
        prompts: Collection[str] = PROMPT_KINDS,
    ) -> None:
        self.folders, self.methods, self.settings, self.rows = folders, methods, settings, rows
        self.started, self.seconds = time.monotonic(), seconds
        self.records: list[Record] = []
        self.unfinished: list[str] = []
        self.left_out = {f"{f.name}/{file}": reason for f in folders for file, reason in f.refused.items()}
        source = source_fingerprint(ROOT / "lib", ROOT / "scripts" / "measure" / "evaluation")
        self._units: dict[str, list[Unit]] = {}
        for folder in folders:
            units, refused = units_of(folder, methods[folder.dataset.dims], settings, source)
            self._units[folder.name] = [unit for unit in units if unit.prompt_kind in prompts]
            self.left_out |= refused

    def run(self) -> None:
        """Do what is not finished yet, the slow baselines last."""
        total, done = sum(map(len, self._units.values())), 0
        for slow in (False, True):
            for folder in self.folders:
                for unit in self._units[folder.name]:
                    if unit.slow is slow:
                        done += 1
                        self._do(unit, f"{done}/{total}")
                folder.forget()

    def _do(self, unit: Unit, count: str) -> None:
        records = self.rows.get(unit.key)
        if records is None and time.monotonic() - self.started > self.seconds:
            self.unfinished.append(unit.name)
            return
        began = time.monotonic()
        if records is None:
            records = self.rows.put(unit.key, unit.make())
            print(f"[{count}] {unit.name}: {_glance(records)}, {time.monotonic() - began:.1f} s", flush=True)
        self.records += records

    def results(self) -> dict[str, Any]:
        """The numbers of everything that is finished."""
        units = {f.name: "mm" if f.dataset.files[0].endswith((".nii", ".nii.gz")) else "pixels" for f in self.folders}
        return {
            **summarise(self.records, units, self.settings.seed),
            "settings": asdict(self.settings),
            "left_out": self.left_out,
            "unfinished": self.unfinished,
            "seconds": round(time.monotonic() - self.started),
        }

    def write_gallery(self, path: Path, introduction: str) -> None:
        """Best and worst answers for each structure, asked once more."""
        shown: list[Picture] = []
        for folder in self.folders:
            methods = self.methods[folder.dataset.dims]
            if methods.by_template:
                shown += template_pictures(folder, self.records, methods.by_template)
            if methods.by_clicks:
                shown += click_pictures(folder, self.records, methods.by_clicks)
            folder.forget()
        write_page(path, shown, introduction)


def _glance(records: Sequence[Record]) -> str:
    if not records:
        return "nothing to score"
    if "clicks" in records[0]:
        return f"{sum(r['clicks']['80'] for r in records) / len(records):.1f} clicks to 80 %"
    fewest = min(record["templates"] for record in records)
    dices = [record["dice"] for record in records if record["templates"] == fewest]
    return f"Dice {sum(dices) / len(dices):.1f}"


def open_folders(data: Path, split: str | None, dims: int | None = None) -> list[CaseFolder]:
    """Read every data set once; names what cannot be used on stderr. Raises DatasetError where there is none."""
    folders = []
    datasets = [dataset for dataset in read_datasets(data, split) if dims in (None, dataset.dims)]
    if not datasets:
        raise DatasetError(f"{data} must hold a data set of {dims} dimensions, got none: leave --dims out")
    for dataset in datasets:
        folder = CaseFolder.open(dataset)
        for reason in folder.refused.values():
            print(f"left out: {reason}", file=sys.stderr)
        folders.append(folder)
    return folders


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="a data set or a folder of them (lib/learning/datasets.py)"
    )
    parser.add_argument("--split", help="only data sets of this split (train, dev, eval)")
    parser.add_argument("--dims", type=int, choices=(2, 3), help="only images, or only volumes, which take longer")
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS, help="safetensors; by default what ships")
    parser.add_argument("--promptseg", type=Path, metavar="FILE", help="weights of PromptSeg, to measure it too")
    parser.add_argument("--json", type=Path, help="results; beside it .html (pictures) and .jsonl (finished work)")
    parser.add_argument("--curves", type=Path, metavar="PNG", help="a picture: Dice by the number of templates")
    parser.add_argument("--queries", type=int, default=Settings.queries, help="images asked for each structure")
    parser.add_argument("--volumes", type=int, default=Settings.volume_queries, help="volumes asked in a 3-D data set")
    parser.add_argument("--templates", type=int, default=Settings.singles, help="single templates")
    parser.add_argument(
        "--several",
        type=int,
        nargs="*",
        default=[count for count, _ in Settings.several],
        metavar="K",
        help="how many templates answer together (4 and 16); none after it leaves such groups out",
    )
    parser.add_argument("--clicks", type=int, default=Settings.clicks, help="clicks after which the clicker gives up")
    parser.add_argument(
        "--methods", nargs="+", choices=(*METHODS, *EXTRA), default=METHODS, help=f"all but {', '.join(EXTRA)}"
    )
    parser.add_argument(
        "--prompts", nargs="+", choices=PROMPT_KINDS, default=PROMPT_KINDS, help="by default all, and clicks"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument(
        "--minutes", type=float, default=50, help="begin nothing new after this time; run again to go on"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fresh", action="store_true", help="use nothing that earlier runs finished")
    options = parser.parse_args(arguments)
    for name in ("queries", "volumes", "templates", "clicks", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(options, name)}")
    if any(name.startswith(PROMPT_SEG) for name in options.methods) and not options.promptseg:
        parser.error("the method PromptSeg needs --promptseg FILE, of scripts.pretrain --network promptseg")
    if wrong := [count for count in options.several if count < 2]:
        parser.error(f"--several must be 2 or more, got {wrong[0]}: --templates is about single ones")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """How much is asked; of up to four templates four groups, of more one."""
    several = tuple((count, 4 if count <= 4 else 1) for count in options.several)
    of_volumes = tuple((count, min(groups, 2)) for count, groups in several)
    return Settings(
        options.queries, options.volumes, options.templates, several, of_volumes, options.clicks, options.seed
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    settings = settings_of(options)
    try:
        promptseg = load_network(options.promptseg, options.device, PromptSeg) if options.promptseg else None
        network = load_network(options.weights, options.device)
        folders = open_folders(options.data, options.split, options.dims)
    except (CheckpointError, DatasetError) as error:
        sys.exit(str(error))
    hashed = weights_hash(network)
    out = options.json or PLACE / f"{options.split or options.data.name}-{hashed}.json"
    methods = panels(network, options.device, settings.seed, options.threads, options.methods, promptseg)
    rows = FinishedRows(out.with_suffix(".jsonl"), options.fresh)
    run = Evaluation(folders, methods, settings, rows, 60 * options.minutes, options.prompts)
    about: dict[str, Any] = {"weights": {"hash": hashed, **read_provenance(options.weights)}, "data": options.data.name}
    if promptseg is not None:
        about["promptseg"] = {"hash": weights_hash(promptseg), **read_provenance(options.promptseg)}
    try:
        run.run()
        results = {**about, "split": options.split, **run.results()}
        write_atomically(out, json.dumps(results, indent=1).encode())
        if options.curves:
            draw_by_templates(results["overall"], options.curves)
        run.write_gallery(out.with_suffix(".html"), f"Weights {hashed}. Filled: the answer; line: the truth.")
    except OSError as error:
        sys.exit(f"could not keep a result ({error}); what was finished stays in {run.rows.path}: run again to go on")
    print("\n" + report(results))
    print(f"{out}, {out.with_suffix('.html')}")
    if any(folder.refused for folder in folders):
        sys.exit(1)  # files that cannot be used, named above


if __name__ == "__main__":
    main()
