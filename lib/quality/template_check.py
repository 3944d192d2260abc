"""Is a template worth a list's time? How typical it is, what it finds in augmented views of itself, and a trial.

Nothing here refuses a template: a warning names the study that would serve better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

TRIALS = 3
LEAST_STUDIES = 5  # below that no study is typical or not
UNUSUAL = 0.2  # of the list: the share that is less typical still
LEAST_VIEW_DICE = 0.7  # Dice
LEAST_TRIAL = 0.6  # Dice


@dataclass(frozen=True)
class TemplateReport:
    """What is known of a list's templates before the list is segmented.

    Attributes:
        typical: template to the share of other studies that are less like the rest than it is, 0 to 1.
        better: the most typical study without a label; None where the templates are as typical.
        views: structure to the Dice that the templates reach on augmented views of themselves.
        trial: study to the lowest predicted Dice of its structures.
    """

    typical: Mapping[str, float] = field(default_factory=dict)
    better: str | None = None
    views: Mapping[str, float] = field(default_factory=dict)
    trial: Mapping[str, float] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """In words, none where all is well."""
        sentences = []
        if self.typical and max(self.typical.values()) < UNUSUAL:
            least = max(self.typical, key=lambda id: self.typical[id])
            sentences.append(f"{least} is unlike most of the list")
        for name, dice in self.views.items():
            if dice < LEAST_VIEW_DICE:
                sentences.append(
                    f"{name} is hard: even in warped copies of its own template it reaches a Dice of {dice:.2f}; "
                    "expect to correct, and paint it in a few more studies"
                )
        if self.trial and float(np.median(list(self.trial.values()))) < LEAST_TRIAL:
            numbers = ", ".join(f"{value:.2f}" for value in self.trial.values())
            tried = "one study" if len(self.trial) == 1 else f"{len(self.trial)} studies"
            sentences.append(f"a trial on {tried} is predicted at only {numbers}")
        if sentences and self.better:
            sentences.append(f"the most typical study is {self.better}: a label there would show more of the list")
        return sentences


def typicality(descriptors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Study to the share of the others that are less like the rest than it is; empty for a list too short to say.

    Args:
        descriptors: unit vectors (D,), see `lib.inference.templates.study_descriptor`.
    """
    if len(descriptors) < LEAST_STUDIES:
        return {}
    vectors = np.stack(list(descriptors.values()))
    likeness = vectors @ vectors.sum(axis=0)  # to all, itself included, which is the same for every study
    ranks = np.argsort(np.argsort(likeness, kind="stable"), kind="stable")
    return {id: float(rank) / (len(descriptors) - 1) for id, rank in zip(descriptors, ranks, strict=True)}


def most_typical(descriptors: Mapping[str, np.ndarray], templates: Sequence[str]) -> str | None:
    """The most typical study if it is none of the templates and clearly more typical than they are."""
    typical = typicality(descriptors)
    known = [typical[id] for id in templates if id in typical]
    best = max(typical, key=lambda id: typical[id], default=None)
    return best if best is not None and known and max(known) < 0.5 else None


def trial_studies(descriptors: Mapping[str, np.ndarray], templates: Sequence[str], pending: Sequence[str]) -> list[str]:
    """`TRIALS` studies that wait: like the templates, unlike them, and between."""
    shown = [descriptors[id] for id in templates if id in descriptors]
    waiting = [id for id in pending if id in descriptors]
    if shown:
        waiting.sort(key=lambda id: -max(float(descriptors[id] @ other) for other in shown))
    if len(waiting) <= TRIALS:
        return waiting
    return [waiting[round(part * (len(waiting) - 1))] for part in (0.1, 0.5, 0.9)]
