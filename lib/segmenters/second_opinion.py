"""What another network says of the structures that templates are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lib.imaging.volumes import Stack
from lib.segmenters.mask_assembly import resized


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """Logits of another network on an image.

    The mask is cut where its logits and those from the templates, each 0 at its own threshold, have the mean 0.

    Attributes:
        stack: how the image was cut for it.
        logits: structure to (N, h, w) of that stack's slices, at any resolution.
        weight: its weight in the mean, 0 to 1.
    """

    stack: Stack
    logits: Mapping[str, np.ndarray]
    weight: float

    def on(self, stack: Stack, name: str) -> np.ndarray:
        """(N, H, W) logits of a structure on the slices of another stack of the same image."""
        upright = np.moveaxis(resized(self.logits[name].astype(np.float32), self.stack), 0, self.stack.axis)
        return np.moveaxis(upright, stack.axis, 0)
