"""Every number of a UniSeg network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Conditioning = Literal["universal", "one-hot", "heads"]


@dataclass(frozen=True)
class UniSegConfig:
    """Sizes and switches of a `UniSeg`; axes are (D, H, W), with D from slice to slice.

    Attributes:
        name: short name that appears in every mask's provenance.
        tasks: number of tasks.
        outputs: channels of the output, background included: the most that a task has.
        patch: voxels that the network sees at once; each a multiple of the product of its strides.
        channels: numbers of channels an image may have, each with a first convolution of its own.
        base: features at full resolution; they double from stage to stage.
        most_features: and never exceed this number.
        strides: from one stage to the next, fine to coarse; the last one leads to the bottleneck.
        fuse_features: width of FUSE between prompt and task prompts; 0 for a quarter of its input. A number keeps it
            as it was when a task is added.
        conditioning: how the network is told its task. "universal": the universal prompt, as in the paper. The others
            are what the paper compares with: "one-hot", a code of the task beside the last features; "heads", nothing
            but an output layer for each task (one task then makes a plain U-Net).
    """

    name: str = "small"
    tasks: int = 1
    outputs: int = 2
    patch: tuple[int, int, int] = (32, 96, 96)
    channels: tuple[int, ...] = (1, 2, 4)
    base: int = 8
    most_features: int = 128
    strides: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    fuse_features: int = 0
    conditioning: Conditioning = "universal"

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.outputs < 2:
            raise ValueError(f"UniSeg needs a task and two outputs at the least, got {self.tasks} and {self.outputs}")
        if not self.channels or min(self.channels) < 1 or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"channels must be different numbers from 1, got {self.channels}")
        if self.base < 1 or self.most_features < self.base or not self.strides:
            raise ValueError(
                f"UniSeg needs features and strides, got base {self.base} of at most {self.most_features} "
                f"and strides {self.strides}"
            )
        if any(side < 1 or side % stride for side, stride in zip(self.patch, self.stride, strict=True)):
            raise ValueError(f"patch must be multiples of {self.stride}, got {self.patch}")
        if self.conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning must be one of {get_args(Conditioning)}, got {self.conditioning!r}")

    @property
    def stride(self) -> tuple[int, int, int]:
        """Total stride along each axis."""
        depth, height, width = (math.prod(own) for own in zip(*self.strides, strict=True))
        return depth, height, width

    @property
    def prompt_shape(self) -> tuple[int, int, int]:
        """(d, h, w) of the bottleneck of a patch, and of the universal prompt."""
        depth, height, width = (side // stride for side, stride in zip(self.patch, self.stride, strict=True))
        return depth, height, width

    @property
    def features(self) -> tuple[int, ...]:
        """Features of every stage, fine to coarse; the last number is the bottleneck's."""
        return tuple(min(self.base * 2**stage, self.most_features) for stage in range(len(self.strides) + 1))

    @property
    def fuse_width(self) -> int:
        """Features between the convolutions of FUSE."""
        return self.fuse_features or max(1, (self.features[-1] + self.tasks) // 4)

    @classmethod
    def small(cls, tasks: int = 1, outputs: int = 2) -> UniSegConfig:
        """1.6 M parameters at 32 x 96 x 96 voxels: trained and served on CPUs."""
        return cls(tasks=tasks, outputs=outputs)

    @classmethod
    def medium(cls, tasks: int = 1, outputs: int = 2) -> UniSegConfig:
        """15.6 M parameters, half the published width, at 64 x 128 x 128 voxels: for a small GPU."""
        strides = ((1, 2, 2), *[(2, 2, 2)] * 4)
        return cls("medium", tasks, outputs, (64, 128, 128), base=16, most_features=256, strides=strides)

    @classmethod
    def published(cls, tasks: int = 11, outputs: int = 4) -> UniSegConfig:
        """The paper's: 32.1 M parameters at 64 x 192 x 192 voxels."""
        strides = ((1, 2, 2), *[(2, 2, 2)] * 4)
        return cls("published", tasks, outputs, (64, 192, 192), base=32, most_features=320, strides=strides)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UniSegConfig:
        """Build from `as_dict`'s output; lists become tuples again. Raises ValueError for unknown keys."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a UniSeg configuration has the keys {sorted(known)}, got unknown {sorted(unknown)}")
        return cls(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
