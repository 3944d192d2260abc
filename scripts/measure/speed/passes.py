"""A query beside what it could be compared to: medians of passes that take turns, and the ratios that count.

A query whose template is cached stands against the encoder alone, against encoding the template again, in a batch, in
bfloat16, and against the encoder pass of the U-Net configuration that One-Prompt's authors published.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lib.imaging.prompts import MAP_CHANNELS, SEGLAB, SLOTS
from lib.networks import OnePrompt

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
