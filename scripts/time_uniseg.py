"""How long UniSeg takes and how much memory it needs: one patch with and without its prompt, and a whole CT.

    python -m scripts.time_uniseg --size medium
    python -m scripts.time_uniseg --size small --volume 512 512 100
    python -m scripts.time_uniseg --formats

Networks are untrained: neither time nor memory depends on weights. Each measurement runs in a process of its own, as
the memory of a process never falls; what is told is its peak less what the loaded libraries take. Seconds are the
processor's, of all threads together: what others compute meanwhile changes them little.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.imaging.images import Image
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.study import Study
from scripts.import_uniseg import TASKS

SIZES: dict[str, Callable[..., UniSegConfig]] = {
    "small": UniSegConfig.small,
    "medium": UniSegConfig.medium,
    "published": UniSegConfig.published,
}
CT_TASKS = TASKS[:8]


def patch(size: str, prompted: bool, repeats: int) -> float:
    """Seconds of the fastest of some passes of one patch, all resolutions, without gradient."""
    config = _config(size, prompted)
    network, image = UniSeg(config).eval(), torch.randn(1, 1, *config.patch)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + repeats):  # the first one warms up
            began = time.process_time()
            network(image, 0)
            seconds.append(time.process_time() - began)
    return min(seconds[1:])


def operations(size: str, prompted: bool) -> float:
    """1e9 floating-point operations of one pass of one patch, all resolutions; counted, not measured."""
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = UniSeg(_config(size, prompted))
        network(torch.randn(1, 1, *network.config.patch), 0)
    return counter.get_total_flops() / 1e9


def whole(size: str, shape: Sequence[int], tasks: int) -> float:
    """Seconds for a CT of 0.8 x 0.8 x 3 mm voxels, some of the published CT tasks in one pass of the encoder."""
    config = SIZES[size](tasks, 4)
    model = UniSegModel(UniSeg(config).eval(), CT_TASKS[:tasks], {})
    grey = np.random.default_rng(0).integers(-1000, 1000, tuple(shape)).astype(np.int16)
    study = Study((Image(grey, np.diag([0.8, 0.8, 3.0, 1.0])),))
    labels = {name: number for number, name in enumerate(model.structures, start=1)}
    began = time.process_time()
    UniSegSegmenter(model).segment_study(study, labels)
    return time.process_time() - began


def _config(size: str, prompted: bool) -> UniSegConfig:
    """With the prompts of the published tasks, or the same U-Net without."""
    config = SIZES[size](len(TASKS), 4)
    return config if prompted else dataclasses.replace(config, conditioning="heads", tasks=1)


def formats(repeats: int) -> str:
    """Markdown: two convolutions of a stage by normalisation and memory format, milliseconds of the fastest pass."""
    lines = ["| channels, voxels | normalisation | memory format | answer, bfloat16 | training step, float32 |"]
    lines.append("|---|---|---|---|---|")
    for channels, shape in ((16, (32, 96, 96)), (64, (16, 48, 48)), (256, (4, 12, 12))):
        for name, norm in (("instance", _instance), ("group", _group)):
            for layout in (torch.contiguous_format, torch.channels_last_3d):
                stage = nn.Sequential(
                    *(nn.Conv3d(channels, channels, 3, padding=1), norm(channels), nn.LeakyReLU(0.01, True)),
                    *(nn.Conv3d(channels, 2 * channels, 3, 2, 1), norm(2 * channels), nn.LeakyReLU(0.01, True)),
                ).to(memory_format=layout)
                image = torch.randn(1, channels, *shape).contiguous(memory_format=layout)
                answer, step = (_fastest(work, stage, image, repeats) for work in (_answer, _step))
                voxels = " x ".join(map(str, shape))
                kind = str(layout).removeprefix("torch.")
                lines.append(f"| {channels}, {voxels} | {name} | {kind} | {answer:.0f} | {step:.0f} |")
    return "\n".join(lines)


def _instance(channels: int) -> nn.Module:
    return nn.InstanceNorm3d(channels, affine=True)


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


def _answer(stage: nn.Module, image: torch.Tensor) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        stage(image)


def _step(stage: nn.Module, image: torch.Tensor) -> None:
    stage(image).mean().backward()


def _fastest(work: Callable[..., None], stage: nn.Module, image: torch.Tensor, repeats: int) -> float:
    seconds = []
    for _ in range(1 + repeats):
        began = time.process_time()
        work(stage, image)
        seconds.append(time.process_time() - began)
    return 1000 * min(seconds[1:])


def measured(work: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """(seconds, GB above the start) of a piece of work in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, work, arguments, torch.get_num_threads()))
    process.start()
    theirs.close()
    try:
        seconds, gigabytes = ours.recv()
    finally:
        process.join()
    return seconds, gigabytes


def _measure(answer: Connection, work: Callable[..., float], arguments: Sequence[object], threads: int) -> None:
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = work(*arguments)
    answer.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0."""
    parser = argparse.ArgumentParser(prog="python -m scripts.time_uniseg", description="Time and memory of UniSeg.")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of a patch (%(default)s)")
    parser.add_argument("--volume", type=int, nargs=3, metavar="N", help="voxels of a CT, instead of a patch")
    parser.add_argument("--tasks", type=int, choices=range(1, 9), default=8, help="CT tasks at once (%(default)s)")
    parser.add_argument("--formats", action="store_true", help="normalisations and memory formats, instead of a patch")
    options = parser.parse_args(arguments)
    if options.formats:
        print(formats(options.repeats))
        return 0
    if options.volume:
        seconds, gigabytes = measured(whole, options.size, options.volume, options.tasks)
        print(f"{options.volume} voxels, {options.tasks} tasks: {seconds:.1f} s, {gigabytes:.2f} GB")
        return 0
    (with_seconds, with_memory), (seconds, memory) = (
        measured(patch, options.size, prompted, options.repeats) for prompted in (True, False)
    )
    with_count, count = (operations(options.size, prompted) for prompted in (True, False))
    print(f"with the prompt {with_seconds:.2f} s, {with_memory:.2f} GB, {with_count:.1f} thousand million operations")
    print(f"without {seconds:.2f} s, {memory:.2f} GB, {count:.1f}")
    ratios = with_seconds / seconds, with_memory / memory, with_count / count
    print("ratio {:.2f} in time, {:.2f} in memory, {:.3f} in operations".format(*ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
