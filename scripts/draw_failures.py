"""Pictures of where the weights fail: `python -m scripts.draw_failures [--out PNG]`.

Synthetic tasks that pretraining never drew, several of each family (`lib/learning/synthetic.py`), each asked about one
structure with one template, as served. A row is a family: its middle answer and its worst one, each beside its
template.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from lib.imaging.files import write_atomically
from lib.imaging.images import Image
from lib.imaging.metrics import dice
from lib.imaging.prompts import PromptType
from lib.learning.synthetic import synthetic_task
from lib.networks import OnePrompt
from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.drawing import Panel, draw_rows

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "failures.png"
SIZE = 160  # pixels of a side
SMALLEST = 40  # pixels of a structure: below it a picture shows nothing
PALETTE = 64  # colours
NAMES, LABELS = {1: "structure"}, {"structure": 1}
FIRST = 20_000  # seed of the first task; pretraining seeds with pairs of numbers, never with one
WHAT = {
    "partition": "tissues that fill the image",
    "organs": "organs, several alike",
    "cells": "cells, scattered anew",
    "vessels": "thin branching vessels",
    "lesions": "lesions anywhere",
}


@dataclass(frozen=True, eq=False)
class Answer:
    """One question and what came: Dice from 0 to 1."""

    template: Case
    query: Case
    mask: np.ndarray
    dice: float


def answers(network: OnePrompt, family: str, count: int, seed: int = FIRST) -> list[Answer]:
    """`count` answers on tasks of one family, the worst first."""
    segmenter = SliceSegmenter(network, "cpu", SegmenterSettings(quality_slices=0))
    results: list[Answer] = []
    while len(results) < count:
        task, seed = synthetic_task(np.random.default_rng(seed), SIZE, subjects=2), seed + 1
        if task.family != family:
            continue
        shown = [v for v in np.unique(task.labels)[1:] if (task.labels == v).sum(axis=(1, 2)).min() >= SMALLEST]
        if not shown:
            continue
        value = shown[seed % len(shown)]
        template, query = (_case(f"{seed}/{n}", task.images[n], task.labels[n] == value) for n in (0, 1))
        templates = [template.template(NAMES, PromptType.SEGLAB, 0)]
        mask = segmenter.segment(query.image, templates, LABELS).mask == 1
        results.append(Answer(template, query, mask, dice(mask, query.mask(1))))
    return sorted(results, key=lambda answer: answer.dice)


def rows(network: OnePrompt, count: int) -> list[list[Panel]]:
    """For each family the template and answer in the middle, and the worst ones; prints what they have."""
    pictures = []
    for family, what in WHAT.items():
        answered = answers(network, family, count)
        middle, worst = answered[len(answered) // 2], answered[0]
        print(f"{what}: mean Dice {np.mean([a.dice for a in answered]):.2f}, worst {worst.dice:.2f}, {count} tasks")
        pictures.append(
            [
                *(_panel(what, middle.template, middle.template.mask(1)), _answered("middle", middle)),
                *(_panel("template", worst.template, worst.template.mask(1)), _answered("worst", worst)),
            ]
        )
    return pictures


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--tasks", type=int, default=15, help="of each family")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    picture = draw_rows(rows(load_network(options.weights), max(1, options.tasks)))
    small = io.BytesIO()  # noise compresses badly: a palette makes a third of it
    Pillow.open(io.BytesIO(picture)).convert("RGB").quantize(PALETTE).save(small, "PNG", optimize=True)
    write_atomically(options.out, small.getvalue())
    print(options.out)
    return 0


def _case(name: str, image: np.ndarray, mask: np.ndarray) -> Case:
    return Case(name, name, Image(image, np.eye(4)), mask.astype(np.uint8))


def _panel(title: str, case: Case, mask: np.ndarray) -> Panel:
    return Panel(title, case, mask, case.mask(1))


def _answered(which: str, answer: Answer) -> Panel:
    return _panel(f"{which} of its answers: {100 * answer.dice:.0f} Dice", answer.query, answer.mask)


if __name__ == "__main__":
    raise SystemExit(main())
