"""An annotator who works through a study list, simulated: `python -m scripts.simulate`.

The annotator knows the truth of every study and works until every structure has 85 %, then 90 % Dice, in four ways:
drawing by hand, clicking in each study for itself, the One-Prompt loop in random order, and the full loop (first and
next study by the server's strategies; once a few were corrected, masks predicted good enough are accepted without a
look). All but the first speak REST to a real server, unless --direct asks One-Prompt in this process.
docs/simulation.md says what counts as a click.

Without --studies it makes phantoms; with your own, --truth holds a label map for each. An interrupted run goes on where
it stood when it is started again with the same --output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.imaging.files import write_atomically
from lib.imaging.images import ImageError
from lib.networks.checkpoints import SHIPPED_WEIGHTS
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.command_line import parser_of
from scripts.make_demo_data import write_demo_data
from scripts.measure.simulation.annotator import HANDS
from scripts.measure.simulation.direct import DIRECT, walk
from scripts.measure.simulation.figures import convergence, curves, summary, table
from scripts.measure.simulation.goals import MOST_CLICKS
from scripts.measure.simulation.ways import WAYS, Log, Loop, Plan, StudyList, hand
from scripts.measure.study_list import StudyListError, Truth, add_study_options, count, find_studies
from scripts.servers.client import ServerError, ended_by_signals


def read_list(options: argparse.Namespace) -> StudyList:
    """The studies that were asked for, those without a truth left out."""
    images, labels = options.studies, options.truth
    if images is None:
        phantoms = options.output / "phantoms"
        if not phantoms.exists():
            write_demo_data(phantoms, count=options.limit or 12)
        images, labels = phantoms / "studies", phantoms / "truth"
    truth = Truth.in_folder(labels)
    studies = [study for study in find_studies(images) if truth.path_of(study)][: options.limit]
    if not studies:
        raise StudyListError(f"the studies need a truth, and none in {images} has one in {labels}")
    return StudyList(studies, truth)


def records(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What was opened and what was accepted unseen in one way's folders."""
    entries, unseen = [], []
    for folder in folders:
        if not (folder / "log.json").exists():
            raise StudyListError(f"{folder.parent} holds no finished way {folder.name!r}: run it there first")
        entries += Log(folder / "log.json").entries
        if (folder / "unseen.json").exists():
            unseen += json.loads((folder / "unseen.json").read_text())
    return entries, unseen


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every way that was asked for, and its figures."""
    options.output.mkdir(parents=True, exist_ok=True)
    studies = read_list(options)
    conf = {"weights": str(options.weights.resolve())} if options.weights else {}
    plan = Plan(
        options.accept_at, options.correct_first, options.most_clicks, options.seed, options.timeout, conf, options.hand
    )
    segmenter = SliceSegmenter.load(options.weights or SHIPPED_WEIGHTS) if options.direct else None
    ways: dict[str, Any] = {}
    logs: dict[str, Any] = {}
    for way in options.ways:
        folder = options.output / way
        folder.mkdir(exist_ok=True)
        if way == "hand":
            hand(studies, Log(folder / "log.json"))
        elif segmenter is not None:
            walk(way, studies, plan, folder, segmenter)
        elif not (folder / "unseen.json").exists():
            Loop(way, studies, plan, folder.resolve()).run()
        logs[way], unseen = records([output / way for output in (*options.together, options.output)])
        ways[way] = summary(logs[way], unseen)
        print(f"\n{table(ways)}", flush=True)
    print(f"\n{convergence(logs)}")
    picture = curves(logs, {way: result_of_way["unseen"] for way, result_of_way in ways.items()})
    write_atomically(options.output / "clicks.png", picture)
    settings = {"accept_at": plan.accept_at, "correct_first": plan.correct_first, "seed": plan.seed, "hand": plan.hand}
    of = max(figures["opened"] + figures["unseen"] for figures in ways.values())
    result = {"studies": of, **settings, "ways": ways}
    write_atomically(options.output / "simulation.json", json.dumps(result, indent=1).encode())
    for way, result_of_way in ways.items():
        for goal, at in result_of_way["goals"].items():
            if at["limited"]:
                print(f"{way}: the limit of clicks was hit before {goal} in {', '.join(at['limited'])}")
    return result


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of("simulate", __doc__)
    add_study_options(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which ways (default: all)")
    parser.add_argument("--accept-at", type=float, default=0.85, metavar="Q", help="predicted Dice of the full loop")
    parser.add_argument(
        "--correct-first", type=int, default=3, metavar="N", help="cases of each structure before it accepts unseen"
    )
    parser.add_argument(
        "--hand",
        choices=HANDS,
        default=HANDS[0],
        help="how volumes are corrected: clicks; clicks, and good slices are accepted; slices are painted and carry",
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help=f"One-Prompt alone without a server, in less than half the time; for the ways {', '.join(DIRECT)}",
    )
    parser.add_argument("--most-clicks", type=count, default=MOST_CLICKS, metavar="N", help="on one structure")
    parser.add_argument("--seed", type=int, default=0, help="of the random order")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="longest wait for the job's news")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="logs, figures, curves")
    parser.add_argument(
        "--together",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="outputs of runs on other lists or seeds that the figures count as well",
    )
    options = parser.parse_args(arguments)
    if (options.studies is None) != (options.truth is None):
        parser.error("--studies and --truth go together")
    if options.direct and set(options.ways) - set(DIRECT):
        parser.error(f"--direct goes with --ways among {' '.join(DIRECT)}, the others need a server")
    if not 0 <= options.accept_at <= 1:
        parser.error(f"--accept-at must be from 0 to 1, got {options.accept_at}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        with ended_by_signals():
            run(options)
    except (ServerError, StudyListError, ImageError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("simulate: stopped; the same command goes on where it stood", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
