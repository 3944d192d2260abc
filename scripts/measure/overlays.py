"""Pictures of masks on their images: one per study, and a contact sheet of a whole list.

Slices are shown as radiologists see them: the patient's right is on the left, the front (axial) or the head is up. The
mask is filled, the truth a white line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.imaging.pictures import COLOURS, grey_window, upright

_MANY = 18  # tiles of a contact sheet; more would not be looked at


@dataclass(frozen=True)
class Picture:
    """What to show of one study.

    image: (I, J) or (I, J, K) grey values; mask: the same shape, label values from 1 on; truth: likewise, or None;
    affine: (4, 4), voxel index to RAS mm.
    """

    title: str
    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    affine: np.ndarray


class Gallery:
    """A folder of pictures: `add` writes one study's at once, `save_contact_sheet` the middle slices of all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tiles: list[tuple[str, _Tile]] = []

    def add(self, name: str, picture: Picture) -> None:
        """Writes NAME.png: three slices through what was found and what should have been (one of a 2-D image)."""
        tiles = list(_slices(picture, (0.25, 0.5, 0.75)))
        figure = Figure(figsize=(3.2 * len(tiles), 3.6), layout="constrained")
        figure.suptitle(picture.title, fontsize=10)
        for number, tile in enumerate(tiles):
            _draw(figure.add_subplot(1, len(tiles), number + 1), tile)
        figure.savefig(self._folder / f"{name}.png", dpi=110)
        if len(self._tiles) < _MANY:
            self._tiles.append((picture.title, tiles[len(tiles) // 2]))

    def save_contact_sheet(self) -> Path:
        """Writes contact_sheet.png: one slice of each study (of the first 18), side by side."""
        columns = min(6, len(self._tiles))
        rows = -(-len(self._tiles) // columns)
        figure = Figure(figsize=(2.2 * columns, 2.4 * rows), layout="constrained")
        for number, (title, tile) in enumerate(self._tiles):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.set_title(title, fontsize=8)
            _draw(axes, tile)
        path = self._folder / "contact_sheet.png"
        figure.savefig(path, dpi=110)
        return path


@dataclass(frozen=True)
class _Tile:
    """One slice, its rows from top to bottom, with the height of a pixel relative to its width."""

    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    window: tuple[float, float]
    aspect: float


def _slices(picture: Picture, fractions: Sequence[float]) -> Iterator[_Tile]:
    """Slices at the given fractions of the structures' extent along the axis with the thickest voxels."""
    arrays = [picture.image, picture.mask, *([picture.truth] if picture.truth is not None else [])]
    window = grey_window(picture.image)
    turned = upright(arrays, picture.affine)
    if turned.axis is None:
        yield _tile(turned.planes(0), window, turned.aspect)
        return
    nonempty = np.any([array > 0 for array in turned.arrays[1:]], axis=0)
    for index in _positions(nonempty, turned.axis, fractions):
        yield _tile(turned.planes(index), window, turned.aspect)


def _tile(planes: Sequence[np.ndarray], window: tuple[float, float], aspect: float) -> _Tile:
    return _Tile(planes[0], planes[1], planes[2] if len(planes) > 2 else None, window, aspect)


def _positions(nonempty: np.ndarray, axis: int, fractions: Sequence[float]) -> list[int]:
    others = tuple(n for n in range(nonempty.ndim) if n != axis)
    filled = np.flatnonzero(nonempty.any(axis=others))
    if not filled.size:
        filled = np.arange(nonempty.shape[axis])
    return [int(filled[round(fraction * (filled.size - 1))]) for fraction in fractions]


def _draw(axes: Axes, tile: _Tile) -> None:
    axes.set_axis_off()
    axes.imshow(tile.image, cmap="gray", vmin=tile.window[0], vmax=tile.window[1], aspect=tile.aspect)
    colours = np.array(COLOURS)[(tile.mask.astype(int) - 1) % len(COLOURS)] / 255
    colours = np.concatenate([colours, 0.5 * (tile.mask > 0)[..., None]], axis=-1)
    axes.imshow(colours, aspect=tile.aspect, interpolation="nearest")
    if tile.truth is None:
        return
    for value in np.unique(tile.truth[tile.truth > 0]):
        axes.contour(tile.truth == value, levels=[0.5], colors="white", linewidths=0.8)
