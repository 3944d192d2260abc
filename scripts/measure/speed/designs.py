"""Networks and their designs beside each other: processor time of serving and of training, and how near to the peak.

All in one process and in turns, bfloat16, random weights, because time does not depend on what a network has learnt.
The peak is what the same processor reaches in a channels-last convolution of 64 channels in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lib.imaging.prompts import MAP_CHANNELS, SEGLAB, SLOTS
from lib.networks import OnePrompt
from lib.networks.promptseg import PromptSeg

BATCH, TEMPLATES = 8, (4, 8, 16)
PEAK = "convolution, 64 channels"


def work(network: OnePrompt | PromptSeg, size: int) -> dict[str, Callable[[], object]]:
    """Name to what is run, each for `BATCH` queries; in training half as many templates are encoded beside them.

    Templates are encoded already, and PromptSeg remembers them already.
    """
    images = torch.randn(BATCH, 1, size, size)
    maps = torch.zeros(1, SLOTS, len(MAP_CHANNELS), size, size)
    maps[:, 0, SEGLAB, size // 4 : size // 2, size // 4 : size // 2] = 1
    maps[:, 1, SEGLAB] = 1 - maps[:, 0, SEGLAB]
    shown = images[: BATCH // 2]

    def queries(count: int) -> Callable[[], object]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            template = network.encode(images[:1])
        each = min(count, network.config.most_templates)
        several = tuple(level[:, None].expand(-1, each, -1, -1, -1) for level in template)
        repeated_maps = maps[:, None].expand(-1, each, -1, -1, -1, -1)
        if isinstance(network, PromptSeg):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                memory = network.remember(several, repeated_maps)

        def run() -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                features = network.encode(images)
                if isinstance(network, PromptSeg):
                    network.read(features, memory)
                    return
                for _ in range(count // each):
                    network.decode(features, several if each > 1 else template, repeated_maps if each > 1 else maps)

        return run

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            encoded = network.encode(torch.cat([images, shown]))
            template = tuple(level[BATCH:].repeat(2, 1, 1, 1) for level in encoded)
            logits = network.decode(
                tuple(level[:BATCH] for level in encoded), template, maps.expand(BATCH, -1, -1, -1, -1)
            )
        logits.square().mean().backward()

    several = {f"query, {count} templates": queries(count) for count in TEMPLATES}
    return {"query": queries(1), **several, "training query": train}


def peak() -> Callable[[], object]:
    image = torch.randn(BATCH, 64, 64, 64, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(image, weight, padding=1)


def compare_designs(networks: Mapping[str, OnePrompt | PromptSeg], size: int, rounds: int) -> list[dict[str, object]]:
    """Rows of design, pass, milliseconds a query, GFLOP a query and GFLOP/s; the peak is the first row."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    runs = {("", PEAK): peak()}
    runs |= {(name, what): run for name, net in networks.items() for what, run in work(net.train(), size).items()}
    operations: dict[tuple[str, str], float] = {}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for key, run in runs.items():  # counting warms up as well
        with FlopCounterMode(display=False) as counter:
            run()
        operations[key] = counter.get_total_flops() / BATCH / 1e9
    for _ in range(rounds):
        for key, run in runs.items():
            began = clock()
            run()
            times[key].append((clock() - began) / BATCH)
    return [
        {
            "design": key[0],
            "pass": key[1],
            "milliseconds": round(1000 * statistics.median(times[key]), 2),
            "gflop": round(operations[key], 2),
            "gflop_per_second": round(operations[key] / statistics.median(times[key])),
        }
        for key in runs
    ]
