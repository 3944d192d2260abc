"""The answer that costs nothing: the template's mask, stretched over the query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from skimage.transform import resize

from lib.imaging.prompts import PromptType
from lib.imaging.volumes import Stack
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, TemplateQuestion


class Copying:
    """A `TemplateMethod`. Several templates are averaged and cut at one half."""

    name = "copy"
    prompts: tuple[PromptType, ...] = (PromptType.SEGLAB,)
    most_templates = 16
    fingerprint = "1"

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`; templates and query meet in one orientation."""
        for one in questions:
            answer = {}
            for value in one.names:
                showing = [case for case in one.templates if case.mask(value).any()]
                if showing:
                    stretched = [_stretched(case, value, one.query) for case in showing]
                    answer[value] = one.query.stack.restored(np.mean(stretched, axis=0) >= 0.5)
            yield answer


def _stretched(template: Case, value: int, query: Case) -> np.ndarray:
    """Coverage (N, H, W), 0 to 1, on the slices of the query's stack."""
    slices = Stack.of(template.image, plane=query.stack.axis).slices_of(template.mask(value))
    shape = (len(query.stack), *query.stack.slice(0).shape)
    return resize(slices.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=False)
