"""Panels as a PNG: an answer filled, the truth a line, clicks as dots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.imaging.prompts import Prompt
from scripts.measure.evaluation.cases import Case

FILL = (1.0, 0.45, 0.1, 0.5)
SIDE = 3.0  # inches of a panel


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with a mask on it.

    Attributes:
        mask, truth: bool, in the image's shape.
        prompt: whose clicks are shown.
    """

    title: str
    case: Case
    mask: np.ndarray
    truth: np.ndarray
    prompt: Prompt = field(default_factory=Prompt)


def draw(panels: Sequence[Panel]) -> bytes:
    """PNG of the panels side by side; of a volume the slice that shows most of the truth."""
    return draw_rows([panels])


def draw_rows(rows: Sequence[Sequence[Panel]]) -> bytes:
    """The same for several rows of one length."""
    columns = len(rows[0])
    figure = Figure(figsize=(SIDE * columns, (SIDE + 0.3) * len(rows)), layout="constrained")
    for number, panel in enumerate(panel for row in rows for panel in row):
        _draw(figure.add_subplot(len(rows), columns, number + 1), panel)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    stack = panel.case.stack
    truth = stack.slices_of(panel.truth)
    index = int(truth.sum(axis=(1, 2)).argmax())
    image, filled = stack.slice(index).T, stack.slices_of(panel.mask)[index].T  # a slice's first axis runs to the right
    low, high = np.percentile(image, (1, 99.5))
    axes.set_axis_off()
    axes.set_title(panel.title, fontsize=9)
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    colour = np.zeros((*filled.shape, 4))
    colour[filled] = FILL
    axes.imshow(colour, interpolation="nearest")
    if truth[index].any():
        axes.contour(truth[index].T, levels=[0.5], colors="white", linewidths=0.9)
    clicks = stack.prompt(panel.prompt).on_slice(stack.axis, index)
    for points, style in ((clicks.foreground, "go"), (clicks.background, "ro")):
        for point in points:
            axes.plot(*point, style, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
