"""How fast is a query, side by side with what it could be compared to: `python -m scripts.benchmark [--json OUT]`.

Seconds say more of the machine than of the network, so everything is timed in one process, in turns, and what counts
are the ratios: a query whose template is cached against the encoder alone, against encoding the template again, in a
batch, in bfloat16, and against the encoder pass of the U-Net configuration that One-Prompt's authors published.
`--designs small small-v2 promptseg` compares designs of One-Prompt, and PromptSeg, instead: serving and training, with
the processor's peak.
`--clicks I J K` measures what clicks cost on a CT of that shape instead, on a server of its own, beside what is
promised (docs/performance.md); `--history FILE` compares that with the file's last entry and adds one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.imaging.files import write_atomically
from lib.imaging.prompts import MAP_CHANNELS, SEGLAB, SLOTS
from lib.networks import NAMES, NetworkConfig, OnePrompt
from lib.networks.architectures import PROMPTSEG
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network
from lib.networks.promptseg import PromptSeg, PromptSegConfig
from scripts.measure.clicks import compared, measure_clicks, targets
from scripts.measure.designs import compare_designs
from scripts.measure.evaluation.report import table

BATCH = 32
PRECISIONS = {"float32": False, "bfloat16": True}
PUBLISHED_SIZE = 256  # pixels, the smallest that the published configuration runs at


class PublishedEncoder(nn.Sequential):
    """A stand-in for the encoder of the published U-Net configuration: equal layer sizes, random weights.

    Our own layers to its numbers (11.9 M parameters): two 3 x 3 convolutions at each of 128, 256, 480 and 480 channels
    with max pooling between, a bottleneck that ends in 256, and a 1 x 1 projection of each level to 256 channels. Only
    its time means anything.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 128, 256, 480, 480)
        self.levels = nn.ModuleList(
            nn.Sequential(_convolution(before, after), _convolution(after, after)) for before, after in pairwise(widths)
        )
        self.bottleneck = nn.Sequential(_convolution(480, 480), _convolution(480, 256))
        self.projections = nn.ModuleList(nn.Conv2d(width, 256, 1) for width in widths[1:])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, S, S) to projected levels and the bottleneck, fine to coarse."""
        projected = []
        for level, projection in zip(self.levels, self.projections, strict=True):
            images = level(images)
            projected.append(projection(images))
            images = nn.functional.max_pool2d(images, 2)
        return (*projected, self.bottleneck(images))


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.InstanceNorm2d(after), nn.LeakyReLU(0.01, True))


def passes(network: OnePrompt, size: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Name to what is run and the number of queries that it answers."""
    images = torch.randn(BATCH, 1, size, size)
    maps = torch.zeros(1, SLOTS, len(MAP_CHANNELS), size, size)
    maps[:, 0, SEGLAB, size // 4 : size // 2, size // 4 : size // 2] = 1
    maps[:, 1, SEGLAB] = 1 - maps[:, 0, SEGLAB]
    template = network.encode(images[:1])
    published, large = PublishedEncoder().eval(), torch.randn(1, 3, PUBLISHED_SIZE, PUBLISHED_SIZE)

    def query(count: int) -> Callable[[], object]:
        return lambda: network.decode(network.encode(images[-count:]), template, maps)

    return {
        "encoder": (lambda: network.encode(images[-1:]), 1),
        "query": (query(1), 1),
        "query, template encoded again": (lambda: network(images[-1:], images[:1], maps), 1),
        f"query in a batch of {BATCH}": (query(BATCH), BATCH),
        "published encoder": (lambda: published(large), 1),
    }


def measure(network: OnePrompt, size: int, rounds: int) -> dict[str, float]:
    """Median milliseconds a query, of every pass in every precision; passes take turns and so meet the same load."""
    times: dict[str, list[float]] = {}
    with torch.inference_mode():
        work = passes(network, size)
        for turn in range(rounds + 1):
            for name, (run, count) in work.items():
                for precision, enabled in PRECISIONS.items():
                    # a context for each pass, as each request has one: casting the weights is part of the price
                    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                        began = time.perf_counter()
                        run()
                        taken = 1000 * (time.perf_counter() - began) / count
                    if turn:  # the first turn warms up
                        times.setdefault(f"{name}, {precision}", []).append(taken)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def ratios(milliseconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """What is compared: `ratio` is how many times longer the first takes than the second."""
    pairs = []
    for precision in PRECISIONS:
        query = f"query, {precision}"
        pairs += [
            (query, f"encoder, {precision}"),
            (f"query, template encoded again, {precision}", query),
            (query, f"query in a batch of {BATCH}, {precision}"),
            (f"published encoder, {precision}", query),
            (f"published encoder, {precision}", f"query in a batch of {BATCH}, {precision}"),
        ]
    first, second = PRECISIONS
    pairs += [(f"{name}, {first}", f"{name}, {second}") for name in ("query", f"query in a batch of {BATCH}")]
    return [
        {"slower": slow, "faster": fast, "ratio": round(milliseconds[slow] / milliseconds[fast], 2)}
        for slow, fast in pairs
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="by default what ships, and random weights where nothing does")
    parser.add_argument("--size", type=int, default=128, help="pixels of a query")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--designs",
        nargs="+",
        choices=(*NAMES, PROMPTSEG.name),
        help="only compare these, untrained, beside each other",
    )
    parser.add_argument(
        "--clicks", nargs=3, type=int, metavar=("I", "J", "K"), help="only clicks on a CT of this shape"
    )
    parser.add_argument("--history", type=Path, help="of --clicks, a JSON object a line")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def report_clicks(options: argparse.Namespace) -> None:
    """Measure clicks, print them beside what is promised and what was the last time, and write them down."""
    measured = measure_clicks(options.clicks, options.rounds)
    promises = targets(measured)
    print(
        table(
            ["click", "core s", "wall s"],
            [[kind, f"{m['core']:.2f}", f"{m['wall']:.2f}"] for kind, m in measured.items()],
        )
    )
    print(
        table(
            ["target", "core s", "at most", "met"],
            [[t.name, t.value, t.target, "yes" if t.met else "no"] for t in promises],
        )
    )
    results = {
        "shape": options.clicks,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
        "clicks": measured,
        "targets": [one.to_json() for one in promises],
    }
    if options.history:
        if changes := compared(promises, options.history):
            print(table(["click", "core s before", "core s now"], [list(row) for row in changes]))
        with options.history.open("a") as file:
            file.write(json.dumps(results) + "\n")
    if options.json:
        write_atomically(options.json, json.dumps(results, indent=1).encode())


def network_named(name: str) -> OnePrompt | PromptSeg:
    """A network of one of the configurations of One-Prompt, or a PromptSeg, with random weights."""
    return PromptSeg(PromptSegConfig()) if name == PROMPTSEG.name else OnePrompt(NetworkConfig.named(name))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.designs:
        networks = {name: network_named(name) for name in options.designs}
        rows = compare_designs(networks, options.size, options.rounds)
        print(table(list(rows[0]), [list(row.values()) for row in rows]))
        if options.json:
            write_atomically(options.json, json.dumps(rows, indent=1).encode())
        return
    if options.clicks:
        report_clicks(options)
        return
    weights = options.weights or (SHIPPED_WEIGHTS if SHIPPED_WEIGHTS.exists() else None)
    try:
        network = load_network(weights) if weights else OnePrompt(NetworkConfig.small()).eval()
    except CheckpointError as error:
        sys.exit(str(error))
    milliseconds = measure(network, options.size, options.rounds)
    compared = ratios(milliseconds)
    print(table(["pass", "ms a query"], [[name, f"{value:.1f}"] for name, value in milliseconds.items()]) + "\n")
    print(table(["this", "against this", "times"], [[r["slower"], r["faster"], r["ratio"]] for r in compared]))
    if options.json:
        results = {
            "network": network.config.name,
            "weights": weights.name if weights else "random",
            "size": options.size,
            "published_size": PUBLISHED_SIZE,
            "threads": options.threads,
            "milliseconds": {name: round(value, 3) for name, value in milliseconds.items()},
            "ratios": compared,
        }
        write_atomically(options.json, json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
