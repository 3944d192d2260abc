"""How near to the machine's peak the network computes, and how it stands beside other in-context networks.

The peak is what the same processor reaches, in the same run and precision, in a channels-last convolution of 64
channels or a product of two matrices, whichever is more.

Other networks are given as paths and are no part of this project: a Python file with `network()`, which returns a
PyTorch module that is called as UniverSeg is, with queries (B, 1, S, S), supports (B, K, 1, S, S) and their masks.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lib.imaging.images import Image
from lib.imaging.prompts import MAP_CHANNELS, SEGLAB, SLOTS
from lib.imaging.volumes import Stack
from lib.inference.slice_network import Question, SliceNetwork, TaskQuestion, TemplateSlice
from lib.networks.contract import SliceModel
from scripts.measure.speed.costs import Cost, Piece, Target, at_least, costs

BATCH, TEMPLATES = 8, 4
PEAKS = ("convolution of 64 channels", "matrix product")
LEAST = {"encode": 0.4, "decode": 0.3}  # of the peak
FASTER = 4.0  # than another network with as many supports


def measure_throughput(
    network: SliceModel, rounds: int, size: int, peers: Sequence[Path] = ()
) -> tuple[dict[str, Cost], dict[str, float]]:
    """What is run to its cost, and to the operations in it, in GFLOP."""
    work, operations = _work(network, size, peers)
    with torch.inference_mode():
        return costs(_turns(work, rounds)), operations


def speeds(measured: Mapping[str, Cost], operations: Mapping[str, float]) -> dict[str, float]:
    """GFLOP for each core second, of what was counted."""
    return {name: operations[name] / cost.core for name, cost in measured.items() if name in operations and cost.core}


def targets(measured: Mapping[str, Cost], operations: Mapping[str, float]) -> list[Target]:
    """What was promised: shares of the peak, and how much faster than others."""
    speed = speeds(measured, operations)
    peak = max(speed[name] for name in PEAKS)
    kept = [at_least(f"{name}, share of the peak", speed[name] / peak, least) for name, least in LEAST.items()]
    own = measured[f"query, {TEMPLATES} templates"].core
    others = [name for name in measured if name.startswith("peer ")]
    return kept + [at_least(f"{name} / ours", measured[name].core / own, FASTER) for name in others]


def _turns(work: Mapping[str, Callable[[], object]], rounds: int) -> Iterator[list[Piece]]:
    for _ in range(rounds + 1):
        yield [Piece(name, run) for name, run in work.items()]


def _work(
    network: SliceModel, size: int, peers: Sequence[Path]
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    tool = SliceNetwork(network, "cpu", batch_size=BATCH)
    kind = torch.bfloat16 if tool.bfloat16 else torch.float32
    grey = torch.randn(BATCH, size, size)
    maps = torch.zeros(SLOTS, len(MAP_CHANNELS), size, size)
    maps[0, SEGLAB, size // 4 : size // 2, size // 4 : size // 2] = 1
    maps[1, SEGLAB] = 1 - maps[0, SEGLAB]
    features = tool.encode_slices(list(grey.numpy()))
    questions = [Question(one, features[place - 1], maps.numpy()) for place, one in enumerate(features)]
    most = min(TEMPLATES, tool.most_templates)
    groups = [features[first : first + most] for first in range(0, TEMPLATES, most)]
    stack, mask = Stack.of(Image(grey.numpy(), np.eye(4))), maps[0, SEGLAB].numpy() > 0
    shown = [[TemplateSlice(stack, place, one, mask) for place, one in enumerate(group)] for group in groups]
    by_all = [TaskQuestion(features[-1], group).at_once(size) for group in shown]
    image = torch.randn(BATCH, 64, 64, 64, dtype=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, dtype=kind).contiguous(memory_format=torch.channels_last)
    matrix = torch.randn(1024, 1024, dtype=kind)
    work: dict[str, Callable[[], object]] = {
        PEAKS[0]: lambda: F.conv2d(image, weight, padding=1),
        PEAKS[1]: lambda: matrix @ matrix,
        "encode": lambda: tool.encode_slices(list(grey.numpy())),
        "decode": lambda: list(tool.answers(questions)),
        f"query, {TEMPLATES} templates": lambda: list(tool.answers(by_all)),
    }
    operations = {PEAKS[0]: _gflop(work[PEAKS[0]]), PEAKS[1]: _gflop(work[PEAKS[1]])}
    operations |= _of_network(network, grey[:, None], maps[None].expand(BATCH, -1, -1, -1, -1))
    for path in peers:
        work[f"peer {path.stem}, {TEMPLATES} supports"] = _peer(path, grey[:, None], maps[0, SEGLAB], kind)
    return work, operations


def _of_network(network: SliceModel, images: Tensor, maps: Tensor) -> dict[str, float]:
    with torch.no_grad():  # operations in inference mode are not counted
        features = network.encode(images)
        return {
            "encode": _gflop(lambda: network.encode(images)),
            "decode": _gflop(lambda: network.decode(features, features, maps)),
        }


def _gflop(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


def _peer(path: Path, images: Tensor, mask: Tensor, kind: torch.dtype) -> Callable[[], object]:
    """One query with `TEMPLATES` supports, in the precision that ours is computed in."""
    network: nn.Module = runpy.run_path(str(path))["network"]().eval()
    query, supports = images[:1], images[None, -TEMPLATES:]
    masks = mask[None, None, None].expand(1, TEMPLATES, 1, -1, -1)

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            return network(query, supports, masks)

    return run
