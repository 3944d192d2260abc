"""Grey values and grids: what every image passes before and after the network, the same in training and serving.

Grids are resampled between pixel areas (a pixel covers [n, n + 1)), so that a mask does not shift when its slice
is stretched to the network's square and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

UNIT = (1e-12, 1e12)  # largest grey values whose squares 32 bits hold well
PERCENTILES = (0.5, 99.5)  # implants and dead pixels must not squeeze the tissue into a few grey values


def normalise(array: np.ndarray) -> np.ndarray:
    """Grey values to float32 with zero mean and unit variance after clipping to the `PERCENTILES`.

    An image without contrast becomes all zeros. Values must be finite (`lib.imaging.images` refuses others).
    """
    values = _in_reach(np.asarray(array))
    low, high = np.percentile(values, PERCENTILES)
    if high <= low:  # a small target on an empty field: the percentiles fall on the field
        low, high = float(values.min()), float(values.max())
    clipped = np.clip(values, low, high)
    spread = clipped.std()
    return (clipped - clipped.mean()) / spread if spread > 0 else np.zeros_like(clipped)


def _in_reach(array: np.ndarray) -> np.ndarray:
    """The grey values in float32, in another unit where their squares would leave its range."""
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if array.dtype.kind == "f" and largest > 0 and not UNIT[0] < largest < UNIT[1]:
        array = array / np.asarray(largest, np.float64)
    return np.asarray(array, np.float32)


def resize_image(array: np.ndarray, size: int) -> np.ndarray:
    """A 2-D grey image (I, J) to float32 (S, S); antialiased where it shrinks, bilinear where it grows."""
    return resize_plane(array, (size, size))


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A 2-D mask or probability map (I, J) to float32 (S, S) coverage in 0..1, each pixel the area's mean."""
    return resize_plane(mask, (size, size))


def resize_logits(logits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Logits (B, C, S, S) to (B, C, I, J), bilinear between pixel centres: thresholded borders are smooth."""
    shrinks = shape[0] < logits.shape[-2] or shape[1] < logits.shape[-1]
    return F.interpolate(logits.float(), size=tuple(shape), mode="bilinear", align_corners=False, antialias=shrinks)


def resize_plane(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A 2-D array (I, J) to float32 of another shape; antialiased where it shrinks, bilinear where it grows."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
    if tuple(tensor.shape[-2:]) == shape:
        return tensor[0, 0].numpy()
    return F.interpolate(tensor, size=shape, mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()


def resize_label(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A label map (I, J) to another shape by its nearest pixels."""
    rows, columns = (((np.arange(n) + 0.5) * own / n).astype(int) for n, own in zip(shape, label.shape, strict=True))
    return np.asarray(label[np.ix_(rows, columns)])
