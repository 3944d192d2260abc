"""What the server costs, side by side in one run, and which targets that meets: `python -m scripts.benchmark`.

Seconds say more of the machine than of the program, so that core seconds stand beside wall time, medians beside 95th
percentiles, and everything takes turns (docs/performance.md). Parts, all by default:

clicks      as OHIF and 3D Slicer send them to a server of its own, on a CT of each of `--shapes`, with its memory,
            and a click on MONAI Label's own path beside them
studies     a CT by one and four templates, one and six structures; with `--list FOLDER` (images and labels) a study
            of that list too, beside MONAI Label's batch inference
lists       lists of `--counts` small studies: start, status, board, and what the job costs for each study
throughput  operations a second of the network beside the machine's peak, and beside the networks of `--peer FILE`
passes      a query beside the encoder alone, a batch, and the encoder that One-Prompt's authors published

`--history FILE` compares the targets with those that the file has, and adds this run. `--designs small small-v2
promptseg` compares networks instead, serving and training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from lib.imaging.files import write_atomically
from lib.inference.feature_cache import FeatureCache
from lib.networks import NAMES, NetworkConfig, OnePrompt
from lib.networks.architectures import PROMPTSEG
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network
from lib.networks.promptseg import PromptSeg, PromptSegConfig
from lib.segmenters.contract import Segmenter
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG, PromptSegSegmenter, segmenter_of_list
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.report import table
from scripts.measure.speed import clicks, long_lists, passes, studies, throughput
from scripts.measure.speed.costs import Cost, Target, compared
from scripts.measure.speed.designs import compare_designs
from scripts.measure.study_list import Truth

Result = tuple[dict[str, Any], list[Target]]  # what goes to the JSON, and the promises
SHAPES = ((256, 256, 78), (512, 512, 78), (512, 512, 400))
COUNTS = (10, 1_000, 10_000)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--weights", type=Path, help="by default what ships, and random weights where nothing does")
    parser.add_argument("--rounds", type=int, default=3, help="turns that count, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--shapes", nargs="*", type=_shape, default=SHAPES, metavar="IxJxK", help="of clicks")
    parser.add_argument("--memory", nargs="*", type=_shape, default=(), metavar="IxJxK", help="a first click on these")
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, metavar="N", help="studies of long lists")
    parser.add_argument("--list", type=Path, metavar="FOLDER", help="study list: FOLDER/images, FOLDER/labels")
    parser.add_argument("--peer", nargs="+", type=Path, default=(), metavar="FILE", help="Python files with network()")
    parser.add_argument("--size", type=int, default=128, help="pixels of a query")
    parser.add_argument("--ct", type=_shape, default=(512, 512, 78), metavar="IxJxK", help="of studies by templates")
    parser.add_argument(
        "--designs",
        nargs="+",
        choices=(*NAMES, PROMPTSEG.name),
        help="only compare these, untrained, beside each other",
    )
    parser.add_argument("--history", type=Path, help="a JSON object a line")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def measure_clicks(options: argparse.Namespace, network: OnePrompt) -> Result:
    results, promises = {}, []
    for shape, rounds in [*((shape, options.rounds) for shape in options.shapes), *((s, 0) for s in options.memory)]:
        measured, memory = clicks.measure_clicks(shape, rounds)
        name = "x".join(map(str, shape))
        _print_costs(f"clicks on {name}, {memory:.2f} GiB", measured)
        results[name] = {"costs": _json(measured), "gib": round(memory, 3)}
        promises += clicks.targets(shape, measured, memory)
    return results, promises


def served(network: OnePrompt) -> Segmenter:
    """What segments a list by default: One-Prompt, and PromptSeg where it measured better beside these weights."""
    cache = FeatureCache(SegmenterSettings().cache_bytes)
    one_prompt = SliceSegmenter(network, cache=cache)
    if not SHIPPED_PROMPTSEG.exists():
        return one_prompt
    promptseg = PromptSegSegmenter.read(SHIPPED_PROMPTSEG, one_prompt, cache=cache)
    return segmenter_of_list(one_prompt, promptseg, (promptseg.weights_hash, one_prompt.weights_hash))


def measure_studies(options: argparse.Namespace, network: OnePrompt) -> Result:
    segmenter = served(network)
    measured = studies.measure_ct(segmenter, options.ct, options.rounds)
    if options.list:
        truth = Truth.in_folder(options.list / "labels")
        measured |= studies.measure_list(segmenter, options.list / "images", truth, options.rounds)
    _print_costs("a study by templates", measured)
    return _json(measured), studies.targets(measured)


def measure_lists(options: argparse.Namespace, network: OnePrompt) -> Result:
    measured = [long_lists.measure_list(count) for count in options.counts]
    head = ["studies", "start, s", "core s", "a study, core s", "asked for", "core ms", "ms", "95 %", "kB"]
    rows = [
        [m.studies, m.start, m.start_core, m.study, path, m.core_milliseconds[path], *m.milliseconds[path], size]
        for m in measured
        for path, size in m.kilobytes.items()
    ]
    print(table(head, rows) + "\n")
    return {str(one.studies): one.to_json() for one in measured}, long_lists.targets(measured)


def measure_throughput(options: argparse.Namespace, network: OnePrompt) -> Result:
    measured, operations = throughput.measure_throughput(network, 3 * options.rounds, options.size, options.peer)
    _print_costs("throughput", measured)
    speeds = throughput.speeds(measured, operations)
    print(table(["work", "GFLOP/s"], [[name, round(speed)] for name, speed in speeds.items()]))
    print("" if options.peer else "UniverSeg and other peers: not measured, --peer names none\n")
    results = {"costs": _json(measured), "gflop_per_second": {name: round(speed, 1) for name, speed in speeds.items()}}
    return results, throughput.targets(measured, operations)


def measure_passes(options: argparse.Namespace, network: OnePrompt) -> Result:
    milliseconds = passes.measure(network, options.size, 3 * options.rounds)
    ratios = passes.ratios(milliseconds)
    print(table(["pass", "ms a query"], [[name, f"{value:.1f}"] for name, value in milliseconds.items()]) + "\n")
    print(table(["this", "against this", "times"], [[r["slower"], r["faster"], r["ratio"]] for r in ratios]) + "\n")
    rounded = {name: round(value, 3) for name, value in milliseconds.items()}
    return {
        "size": options.size,
        "published_size": passes.PUBLISHED_SIZE,
        "milliseconds": rounded,
        "ratios": ratios,
    }, []


PARTS: Mapping[str, Callable[[argparse.Namespace, OnePrompt], Result]] = {
    "throughput": measure_throughput,
    "passes": measure_passes,
    "studies": measure_studies,
    "clicks": measure_clicks,
    "lists": measure_lists,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.designs:
        _compare_designs(options)
        return
    weights = options.weights or (SHIPPED_WEIGHTS if SHIPPED_WEIGHTS.exists() else None)
    try:
        network = load_network(weights) if weights else OnePrompt(NetworkConfig.small()).eval()
    except CheckpointError as error:
        sys.exit(str(error))
    results: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "network": network.config.name,
        "weights": weights.name if weights else "random",
        "threads": options.threads,
    }
    promises: list[Target] = []
    for part in options.parts:
        results[part], kept = PARTS[part](options, network)
        promises += kept
    results["targets"] = [one.to_json() for one in promises]
    _print_targets(promises)
    if options.history:
        if changes := compared(promises, options.history):
            print(table(["target", "value before", "value now"], [list(row) for row in changes]))
        with options.history.open("a") as file:
            file.write(json.dumps(results) + "\n")
    if options.json:
        write_atomically(options.json, json.dumps(results, indent=1).encode())


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, monai, np)},
    }


def network_named(name: str) -> OnePrompt | PromptSeg:
    """A network of one of the configurations of One-Prompt, or a PromptSeg with the image encoder of `small`, with
    random weights."""
    if name == PROMPTSEG.name:
        return PromptSeg(PromptSegConfig(encoder=NetworkConfig.small()))
    return OnePrompt(NetworkConfig.named(name))


def _compare_designs(options: argparse.Namespace) -> None:
    networks = {name: network_named(name) for name in options.designs}
    rows = compare_designs(networks, options.size, options.rounds)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    if options.json:
        write_atomically(options.json, json.dumps(rows, indent=1).encode())


def _print_costs(about: str, measured: Mapping[str, Cost]) -> None:
    rows = [[name, *(f"{v:.3f}" for v in (c.core, c.core_95, c.wall, c.wall_95))] for name, c in measured.items()]
    print(table([about, "core s", "95 %", "wall s", "95 %"], rows) + "\n", flush=True)


def _print_targets(promises: Sequence[Target]) -> None:
    rows = [
        [one.name, one.value, f"{'>=' if one.least else '<='} {one.target:g}", "yes" if one.met else "no"]
        for one in promises
    ]
    print(table(["name", "value", "target", "met"], rows))


def _json(measured: Mapping[str, Cost]) -> dict[str, Any]:
    return {name: asdict(cost) for name, cost in measured.items()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(int(side) for side in text.split("x") if side.isdigit())
    if len(shape) != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"must be a shape such as 512x512x78, got {text}")
    return shape


if __name__ == "__main__":
    main()
