"""Every number of a One-Prompt network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and switches of a `OnePrompt`.

    Attributes:
        name: short name that appears in every mask's provenance.
        image_size: side in pixels of the square input the weights are trained for; any multiple of `stride` runs.
        channels: encoder channels at strides 1, 2, 4, 8, 16.
        blocks: residual blocks at strides 2, 4, 8, 16.
        former_levels: encoder levels, coarse to fine, of the One-Prompt Former blocks (level n has stride 2**n).
        head_channels: channels of one attention head; a level has channels / head_channels heads.
        max_keys: keys and values of attention other than the prompting map are pooled to at most this many tokens.
        prompt_channels: width of the prompt encoder at its finest level.
        correspondence_channels: width of the features that template and query are matched by.
        decoder_channels: mask decoder's channels at strides 2 and 1.
        prompt_parser: without it the template branch is a plain projection of its features and prompts.
        gaussian_masking: the parser's Gaussian masking step; without it e_tq passes unchanged.
        dense_correspondence: prototype and affinity maps of the template's prompt on the query's grid.
    """

    name: str = "small"
    image_size: int = 128
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    former_levels: tuple[int, ...] = (4, 3, 2)
    head_channels: int = 32
    max_keys: int = 256
    prompt_channels: int = 16
    correspondence_channels: int = 32
    decoder_channels: tuple[int, int] = (40, 16)
    prompt_parser: bool = True
    gaussian_masking: bool = True
    dense_correspondence: bool = True

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or len(self.blocks) != 4:
            raise ValueError(f"channels must name 5 levels and blocks 4, got {self.channels} and {self.blocks}")
        levels = self.former_levels
        if list(levels) != list(range(levels[0], levels[-1] - 1, -1)) or levels[0] != 4 or levels[-1] < 2:
            raise ValueError(f"former_levels must run from 4 down to 2 or 3 without a gap, got {levels}")
        if any(self.channels[level] % self.head_channels for level in levels):
            raise ValueError(f"channels {self.channels} at levels {levels} must be multiples of {self.head_channels}")
        if self.image_size % self.stride:
            raise ValueError(f"image_size must be a multiple of {self.stride}, got {self.image_size}")

    @property
    def stride(self) -> int:
        """Total stride of the encoder."""
        return 2 ** (len(self.channels) - 1)

    @property
    def most_templates(self) -> int:
        """Templates that one decoding pass reads."""
        return 1

    @classmethod
    def small(cls) -> NetworkConfig:
        """3.5 M parameters at 128 px: trained and served on CPUs."""
        return cls()

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

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Build from `as_dict`'s output; lists become tuples again. Raises ValueError for unknown keys."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a network configuration has the keys {sorted(known)}, got unknown {sorted(unknown)}")
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)
