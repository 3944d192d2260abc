"""UniSeg models whose answer is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.networks.uniseg import Features, UniSeg, UniSegConfig
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.tasks import Channel, Task, Window

GREY = Channel("CT", Window(0.0, 100.0, 0.0, 100.0))
CONFIG = UniSegConfig(outputs=3, patch=(8, 16, 16), base=2, most_features=4, strides=((1, 2, 2), (2, 2, 2)))


class Thresholds(UniSeg):
    """Task n: class 1 where the first channel is above (n + 1) / 10, class 2 where the last one is above 0.8."""

    def __init__(self, config: UniSegConfig) -> None:
        super().__init__(config)
        self.encoded: list[tuple[int, ...]] = []
        self.most_voxels: int | None = None  # beyond it memory runs out

    def encode(self, images: Tensor) -> Features:
        if self.most_voxels is not None and images[0, 0].numel() > self.most_voxels:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        self.encoded.append(tuple(images.shape))
        return (images,)

    def decode_tasks(self, features: Features, tasks: list[int]) -> list[Tensor]:
        [images] = features
        first, last = images[:, 0], images[:, -1]
        return [
            100 * torch.stack([torch.zeros_like(first), first - (task + 1) / 10, 10 * (last - 0.8)], dim=1)
            for task in tasks
        ]


def untrained(seed: int, tasks: Sequence[Task], channels: Sequence[int] = (1,), licence: str = "") -> UniSegModel:
    """A real network of random weights, small enough to answer at once."""
    outputs = 1 + max(len(task.structures) for task in tasks)
    config = UniSegConfig(
        tasks=len(tasks),
        outputs=outputs,
        patch=(8, 16, 16),
        base=2,
        most_features=8,
        strides=((1, 2, 2), (2, 2, 2)),
        channels=tuple(channels),
    )
    torch.manual_seed(seed)
    return UniSegModel(UniSeg(config).eval(), tuple(tasks), {"licence": licence} if licence else {})


def thresholds(tasks: Sequence[Task], **changes: object) -> UniSegModel:
    """A model of `Thresholds` with some tasks."""
    config = UniSegConfig(**{**CONFIG.as_dict(), "tasks": len(tasks), **changes})
    return UniSegModel(Thresholds(config).eval(), tuple(tasks), {"licence": "for tests"})
