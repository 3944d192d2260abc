"""Ways through a study list without a server: the annotator asks the segmenter in this process.

Answers to clicks and paint are those that the server gives, at less than half of its processor time: nothing is sent,
stored or predicted, and of all studies only the next one is segmented. Its mask is that of One-Prompt by the studies
done first, which a server gives with `--conf model oneprompt` while there are no more of them than it asks. What the
server alone knows, its strategies and whom to accept unseen, is not there, so that the full loop is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import Image, read_label
from lib.imaging.prompts import Prompt
from lib.imaging.volumes import Stack
from lib.inference.templates import Template
from lib.segmenters.contract import Segmenter
from scripts.measure.simulation.annotator import Annotator, Ask
from scripts.measure.simulation.goals import GOALS
from scripts.measure.simulation.ways import Log, Plan, StudyList, ordered, record

DIRECT = ("hand", "interactive", "random")


def walk(way: str, studies: StudyList, plan: Plan, folder: Path, segmenter: Segmenter) -> None:
    """Work until every study is done, as `ways.Loop` does; what its log holds is not done again.

    Args:
        way: `interactive` or `random`.
        folder: of this way; labels and log lie there as a server's way has them.
    """
    log = Log(folder / "log.json")
    templates: list[Template] = []
    for study in ordered(way, studies.studies, plan.seed):
        image, truth = studies.image(study), studies.masks(study)
        if study.id not in log.ids:
            start = _segmented(segmenter, image, templates) if way == "random" else {}
            ask = ask_segmenter(segmenter, image)
            masks, work = Annotator(image, truth, ask, GOALS, plan.most_clicks, plan.hand).annotate(start)
            record(study, image, truth, masks, work, None, folder, log)
        label = read_label(folder / "labels" / f"{study.id}.nii.gz", like=image)
        templates.append(Template(study.id, image, label, {name: n for n, name in enumerate(truth, start=1)}))


def ask_segmenter(segmenter: Segmenter, image: Image) -> Ask:
    """Clicks and paint on a study, answered in this process."""
    axis = Stack.of(image).own_axis

    def ask(name: str, points: Mapping[str, Any], mask: np.ndarray, painted: Mapping[int, np.ndarray]) -> np.ndarray:
        parts: dict[str, Any] = {kind: tuple(map(tuple, own)) for kind, own in points.items()}
        if painted:
            parts["mask"], parts["confirmed"] = np.zeros_like(mask), np.zeros_like(mask)
            for index, own in painted.items():
                place = (slice(None),) * axis + (index,)
                parts["mask"][place], parts["confirmed"][place] = own, True
        prompt = Prompt(**parts, previous=mask if mask.any() else None)
        return segmenter.interact(image, {name: prompt}, {name: 1}).mask > 0

    return ask


def _segmented(segmenter: Segmenter, image: Image, templates: list[Template]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for template in templates for name in template.structures)
    if not names:
        return {}
    labels = {name: value for value, name in enumerate(names, start=1)}
    mask = segmenter.segment(image, templates, labels).mask
    return {name: mask == value for name, value in labels.items()}
