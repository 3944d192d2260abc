"""A segmenter of the product under the evaluation's questions, asked exactly as the server asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lib.imaging.prompts import Prompt, PromptType
from lib.inference.feature_cache import FeatureCache
from lib.networks import OnePrompt
from lib.networks.promptseg import PromptSeg
from lib.segmenters.contract import Segmenter
from lib.segmenters.promptseg import PromptSegSegmenter
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, TemplateQuestion

ONE_PROMPT, PROMPT_SEG = "One-Prompt", "PromptSeg"
ONE_WRONG = " (one wrong)"  # behind a method's name: of several templates, the first one shows the wrong place
FEWEST_WITH_WRONG = 3  # of two templates that contradict each other nobody could say which is wrong
EVERY_PROMPT = (PromptType.SEGLAB, PromptType.BBOX, PromptType.DOODLE, PromptType.CLICK)
MOST_TEMPLATES = 1000
STRUCTURE = "structure"
FEATURE_ROOM = 2**30  # bytes of encoded slices that are kept
BATCHED = SegmenterSettings(batch_size=32)


class SegmenterMethod:
    """A `TemplateMethod` and a `ClickMethod`.

    Args:
        segmenter: any of the product's.
        name: how it is called in tables.
        seed: of the prompts on templates.
        one_wrong: move the first of several templates' labels a third of the image's sides away.
    """

    prompts: tuple[PromptType, ...] = EVERY_PROMPT
    most_templates = MOST_TEMPLATES

    def __init__(self, segmenter: Segmenter, name: str = ONE_PROMPT, seed: int = 0, one_wrong: bool = False) -> None:
        self.segmenter, self.name, self.seed = segmenter, name + (ONE_WRONG if one_wrong else ""), seed
        self._one_wrong = one_wrong
        self.fingerprint = segmenter.fingerprint

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`. All structures that the templates show compete in one prediction."""
        for one in questions:
            cases = list(one.templates)
            if self._one_wrong and len(cases) >= FEWEST_WITH_WRONG:
                cases[0] = moved(cases[0])
            templates = [case.template(one.names, kind, self.seed) for case in cases]
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


def moved(case: Case) -> Case:
    """The case with its label a third of the image's sides away along every axis; what leaves it comes in again."""
    by = tuple(side // 3 for side in case.label.shape)
    return replace(case, label=np.roll(case.label, by, axis=tuple(range(case.label.ndim))))


def one_prompt(
    network: OnePrompt,
    device: str = "cpu",
    seed: int = 0,
    settings: SegmenterSettings = BATCHED,
    one_wrong: bool = False,
    cache: FeatureCache | None = None,
) -> SegmenterMethod:
    """One-Prompt with all the templates of a question; its settings are the product's, but for that."""
    segmenter = SliceSegmenter(network, device, _with_all_templates(settings), cache=cache)
    return SegmenterMethod(segmenter, seed=seed, one_wrong=one_wrong)


def prompt_seg(
    network: PromptSeg,
    prompted: Segmenter,
    device: str = "cpu",
    seed: int = 0,
    settings: SegmenterSettings = BATCHED,
    one_wrong: bool = False,
    cache: FeatureCache | None = None,
) -> SegmenterMethod:
    """PromptSeg with all the templates of a question, beside a segmenter that answers prompts for it."""
    segmenter = PromptSegSegmenter(network, prompted, device, _with_all_templates(settings), cache=cache)
    return SegmenterMethod(segmenter, PROMPT_SEG, seed, one_wrong)


def _with_all_templates(settings: SegmenterSettings) -> SegmenterSettings:
    return replace(
        settings,
        templates_per_query=MOST_TEMPLATES,
        quality_slices=0,
        cache_bytes=max(FEATURE_ROOM, settings.cache_bytes),
    )
