"""Every number of a One-Prompt network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Design = Literal["pyramid", "patch"]
NAMES = ("small", "small-v2", "base")
FINEST_LEVEL = {"pyramid": 0, "patch": 1}  # of the encoder's features: its stride is 2**level


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and switches of a `OnePrompt`.

    Attributes:
        name: short name that appears in every mask's provenance.
        image_size: side in pixels of the square input the weights are trained for; any multiple of `stride` runs.
        design: `pyramid`, features from stride 1 on, or `patch`, from stride 2 on (`lib/networks/patch`).
        channels: encoder channels at strides 1, 2, 4, 8, 16; of a patch design at 2, 4, 8, 16.
        blocks: residual blocks at strides 2, 4, 8, 16.
        former_levels: encoder levels, coarse to fine, of the One-Prompt Former blocks (level n has stride 2**n).
        head_channels: channels of one attention head; a level has channels / head_channels heads.
        max_keys: keys and values of attention other than the prompting map are pooled to at most this many tokens.
        prompt_channels: width of the prompt encoder at its finest level.
        correspondence_channels: width of the features that template and query are matched by.
        decoder_channels: mask decoder's channels at strides 2 and 1; of a patch design at 2 alone.
        prompt_parser: without it the template branch is a plain projection of its features and prompts.
        gaussian_masking: the parser's Gaussian masking step; without it e_tq passes unchanged.
        dense_correspondence: prototype and affinity maps of the template's prompt on the query's grid.
    """

    name: str = "small"
    image_size: int = 128
    design: Design = "pyramid"
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    former_levels: tuple[int, ...] = (4, 3, 2)
    head_channels: int = 32
    max_keys: int = 256
    prompt_channels: int = 16
    correspondence_channels: int = 32
    decoder_channels: tuple[int, ...] = (40, 16)
    prompt_parser: bool = True
    gaussian_masking: bool = True
    dense_correspondence: bool = True

    def __post_init__(self) -> None:
        if self.design not in FINEST_LEVEL:
            raise ValueError(f"design must be one of {', '.join(FINEST_LEVEL)}, got {self.design!r}")
        count = 5 - FINEST_LEVEL[self.design]
        blocks = count if self.design == "patch" else count - 1
        if len(self.channels) != count or len(self.blocks) != blocks:
            raise ValueError(
                f"channels of a {self.design} design must name {count} levels and blocks {blocks}, got {self.channels} "
                f"and {self.blocks}"
            )
        levels = self.former_levels
        if list(levels) != list(range(levels[0], levels[-1] - 1, -1)) or levels[0] != 4 or levels[-1] < 2:
            raise ValueError(f"former_levels must run from 4 down to 2 or 3 without a gap, got {levels}")
        if self.design == "patch" and levels[-1] != 2:
            raise ValueError(f"former_levels of a patch design must run from 4 down to 2, got {levels}")
        if any(self.level_channels(level) % self.head_channels for level in levels):
            raise ValueError(f"channels {self.channels} at levels {levels} must be multiples of {self.head_channels}")
        if self.image_size % self.stride:
            raise ValueError(f"image_size must be a multiple of {self.stride}, got {self.image_size}")

    @property
    def stride(self) -> int:
        """Total stride of the encoder."""
        return 2 ** (len(self.channels) - 1 + FINEST_LEVEL[self.design])

    def level_channels(self, level: int) -> int:
        """Encoder channels at stride 2**level."""
        return self.channels[self.place_of(level)]

    def place_of(self, level: int) -> int:
        """Which of the encoder's features, fine to coarse, has stride 2**level."""
        return level - FINEST_LEVEL[self.design]

    def support_grid(self, level: int) -> tuple[int, bool]:
        """Of a patch design: the most tokens that this level reads a template through, and whether its keys are split.

        The finest level has keys for a cell's inside and outside, so that a quarter of the tokens are read twice.
        """
        finest = level == self.former_levels[-1]
        return (self.max_keys // 4, True) if finest else (self.max_keys, False)

    @property
    def most_templates(self) -> int:
        """Templates that one decoding pass reads."""
        return 1 if self.design == "pyramid" else 16

    @classmethod
    def small(cls) -> NetworkConfig:
        """3.5 M parameters at 128 px: trained and served on CPUs."""
        return cls()

    @classmethod
    def small_v2(cls) -> NetworkConfig:
        """The patch design for CPUs: several times the queries a second of `small`, several templates in one pass."""
        return cls(
            name="small-v2",
            design="patch",
            channels=(32, 64, 128, 192),
            blocks=(1, 1, 2, 2),
            head_channels=64,
            prompt_channels=64,
            decoder_channels=(32,),
        )

    @classmethod
    def base(cls) -> NetworkConfig:
        """For GPUs: 256 px, twice the width. No GPU has verified it yet."""
        return cls(
            name="base",
            image_size=256,
            channels=(32, 64, 128, 256, 320),
            blocks=(2, 3, 3, 3),
            max_keys=1024,
            prompt_channels=32,
            correspondence_channels=64,
            decoder_channels=(80, 32),
        )

    @classmethod
    def named(cls, name: str) -> NetworkConfig:
        """One of `NAMES`."""
        return {"small": cls.small, "small-v2": cls.small_v2, "base": cls.base}[name]()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        values = dataclasses.asdict(self)
        if self.design == "pyramid":  # weights from before there were two designs keep their hash
            del values["design"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Build from `as_dict`'s output; lists become tuples again. Raises ValueError for unknown keys."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a network configuration has the keys {sorted(known)}, got unknown {sorted(unknown)}")
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)
