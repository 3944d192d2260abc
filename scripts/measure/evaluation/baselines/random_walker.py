"""Interactive baseline: scikit-image's random walker, seeded by the clicks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from skimage.segmentation import random_walker

from lib.imaging.prompts import Prompt
from scripts.measure.evaluation.baselines.seeds import BACKGROUND, FOREGROUND, dabs, enlarged, shrunk
from scripts.measure.evaluation.cases import Case

BETA = 130  # scikit-image's own: how strongly edges hold the walker


class RandomWalker:
    """A `ClickMethod`; it looks at all clicks and starts anew each time."""

    name = "random walker"
    fingerprint = "1"

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `ClickMethod`."""
        return [_walked(case, prompt) for case, prompt in zip(cases, prompts, strict=True)]


def _walked(case: Case, prompt: Prompt) -> np.ndarray:
    image = shrunk(case)
    seeds = dabs(prompt, case.image.array.shape, image.shape)
    if not (seeds == FOREGROUND).any() or not (seeds == BACKGROUND).any():
        return np.full(case.image.array.shape, bool((seeds == FOREGROUND).any()))
    with warnings.catch_warnings():  # speed hints, and probabilities a rounding error outside 0 to 1
        warnings.simplefilter("ignore", UserWarning)
        spread = random_walker(image, seeds, beta=BETA, mode="cg_j", return_full_prob=True)
    return enlarged(spread[FOREGROUND - 1], case.image.array.shape)
