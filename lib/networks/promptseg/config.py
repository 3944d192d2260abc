"""Every number of a PromptSeg network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.networks.config import FINEST_LEVEL, NetworkConfig

LEVEL = 3  # tokens lie at stride 8


@dataclass(frozen=True)
class PromptSegConfig:
    """Sizes and switches of a `PromptSeg`.

    Attributes:
        name: short name that appears in every mask's provenance.
        encoder: the One-Prompt whose image encoder this is, so that its weights can be the start, and one encoding of
            an image can serve both networks. Of the pyramid design, features from stride 2 on are read.
        depth: Transformer blocks in which the query reads the prompts.
        head_channels: channels of one attention head.
        task_tokens: stochastic tokens that describe the task.
        task_channels: of each stochastic token, what the bottleneck lets pass.
        prompt_tokens: tokens of one prompt that the query reads, at most; a square number.
        most_templates: prompts that one pass reads.
        bottleneck: without it the task tokens are plain means over the prompts, and every prompt weighs the same.
    """

    name: str = "promptseg-small"
    encoder: NetworkConfig = field(default_factory=NetworkConfig.small)
    depth: int = 3
    head_channels: int = 32
    task_tokens: int = 8
    task_channels: int = 32
    prompt_tokens: int = 64
    most_templates: int = 16
    bottleneck: bool = True

    def __post_init__(self) -> None:
        if min(self.depth, self.task_tokens, self.task_channels, self.most_templates) < 1:
            raise ValueError(f"depth, task tokens and channels, and templates must be 1 or more, got {self}")
        if round(self.prompt_tokens**0.5) ** 2 != self.prompt_tokens:
            raise ValueError(f"prompt_tokens must be a square number, got {self.prompt_tokens}")
        if self.channels % self.head_channels:
            raise ValueError(f"{self.channels} channels must be a multiple of head_channels, got {self.head_channels}")

    @property
    def parts(self) -> NetworkConfig:
        """Sizes of the prompt encoder, the dense correspondence and the mask decoder: the patch design's.

        Of an encoder of the pyramid design those that fit its channels from stride 2 on.
        """
        if self.encoder.design == "patch":
            return self.encoder
        patch = NetworkConfig.small_v2()
        return dataclasses.replace(
            self.encoder,
            design="patch",
            channels=self.encoder.channels[FINEST_LEVEL["patch"] :],
            blocks=patch.blocks,
            prompt_channels=patch.prompt_channels,
            decoder_channels=patch.decoder_channels,
        )

    @property
    def channels(self) -> int:
        """Of tokens."""
        return self.encoder.level_channels(LEVEL)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input the weights are trained for."""
        return self.encoder.image_size

    @property
    def stride(self) -> int:
        """Total stride of the encoder; image sides are multiples of it."""
        return self.encoder.stride

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        return {**dataclasses.asdict(self), "encoder": self.encoder.as_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptSegConfig:
        """Build from `as_dict`'s output. Raises ValueError for unknown keys, KeyError without an encoder."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a PromptSeg configuration has the keys {sorted(known)}, got unknown {sorted(unknown)}")
        return cls(**{**values, "encoder": NetworkConfig.from_dict(values["encoder"])})
