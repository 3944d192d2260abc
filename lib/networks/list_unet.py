"""A plain U-Net (MONAI's DynUNet) on single slices, for the structures of one study list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monai.networks.nets.dynunet import DynUNet

FILTERS = (16, 32, 64, 96, 128)
NEIGHBOURS = 1


@dataclass(frozen=True)
class ListUNetConfig:
    """Sizes of a `ListUNetNetwork`.

    Attributes:
        structures: names of the output channels.
        filters: channels at full resolution and after each halving.
        neighbours: slices on either side that are seen as further input channels.
        name: short name that appears in every mask's provenance.
    """

    structures: tuple[str, ...]
    filters: tuple[int, ...] = field(default_factory=lambda: FILTERS)
    neighbours: int = NEIGHBOURS
    name: str = "list-unet"

    def __post_init__(self) -> None:
        if not self.structures or len(set(self.structures)) < len(self.structures):
            raise ValueError(f"structures must be one or more different names, got {self.structures}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ListUNetConfig:
        """Build from `as_dict`'s output. Raises ValueError, TypeError for other values."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


class ListUNetNetwork(DynUNet):
    """(B, 1 + 2 * neighbours, H, W) normalised slices to logits (B, K, H, W), one channel a structure."""

    def __init__(self, config: ListUNetConfig) -> None:
        levels = len(config.filters)
        super().__init__(
            spatial_dims=2,
            in_channels=1 + 2 * config.neighbours,
            out_channels=len(config.structures),
            kernel_size=[3] * levels,
            strides=[1, *([2] * (levels - 1))],
            upsample_kernel_size=[2] * (levels - 1),
            filters=config.filters,
        )
        self.config = config
