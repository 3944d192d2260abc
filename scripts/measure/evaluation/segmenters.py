"""A segmenter of the product under the evaluation's questions, asked exactly as the server asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lib.imaging.prompts import Prompt, PromptType
from lib.networks import OnePrompt
from lib.segmenters.contract import Segmenter
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, TemplateQuestion

ONE_PROMPT = "One-Prompt"
EVERY_PROMPT = (PromptType.SEGLAB, PromptType.BBOX, PromptType.DOODLE, PromptType.CLICK)
MOST_TEMPLATES = 1000
STRUCTURE = "structure"
FEATURE_ROOM = 2**30  # bytes of encoded slices that are kept


class SegmenterMethod:
    """A `TemplateMethod` and a `ClickMethod`.

    Args:
        segmenter: any of the product's.
        name: how it is called in tables.
        seed: of the prompts on templates.
    """

    prompts: tuple[PromptType, ...] = EVERY_PROMPT
    most_templates = MOST_TEMPLATES

    def __init__(self, segmenter: Segmenter, name: str = ONE_PROMPT, seed: int = 0) -> None:
        self.segmenter, self.name, self.seed = segmenter, name, seed
        self.fingerprint = segmenter.fingerprint

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`. All structures that the templates show compete in one prediction."""
        for one in questions:
            templates = [case.template(one.names, kind, self.seed) for case in one.templates]
            shown = {name for template in templates for name in template.structures}
            labels = {name: value for value, name in one.names.items() if name in shown}
            mask = self.segmenter.segment(one.query.image, templates, labels).mask
            yield {value: mask == value for value in labels.values()}

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `ClickMethod`; slices are those along `Case.axis`."""
        return [
            self.segmenter.interact(case.image, {STRUCTURE: prompt}, {STRUCTURE: 1}, axis=case.axis).mask > 0
            for case, prompt in zip(cases, prompts, strict=True)
        ]


def one_prompt(
    network: OnePrompt,
    device: str = "cpu",
    seed: int = 0,
    settings: SegmenterSettings = SegmenterSettings(batch_size=32),
) -> SegmenterMethod:
    """One-Prompt with all the templates of a question; its settings are the product's, but for that."""
    settings = replace(
        settings,
        templates_per_query=MOST_TEMPLATES,
        quality_slices=0,
        cache_bytes=max(FEATURE_ROOM, settings.cache_bytes),
    )
    return SegmenterMethod(SliceSegmenter(network, device, settings), seed=seed)
