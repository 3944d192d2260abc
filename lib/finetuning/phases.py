"""The phases of a course: which studies are learnt from, and which are held out meanwhile.

With few studies they take turns at being held out (cross-validation), which tells whether learning from this list helps
at all; if it does, a last phase learns from all of them. With many, one phase holds some out, and its result is what is
published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lib.finetuning.labelled_study import LabelledStudy

FEWEST = 2  # labelled studies, where one must be held out


@dataclass(frozen=True)
class Phase:
    """One training from the first weights: places of the studies it learns from, and of those held out meanwhile."""

    name: str
    training: tuple[int, ...]
    held_out: tuple[int, ...] = ()


class Settings(Protocol):
    """The numbers that every course has; `lib.finetuning.tuning.FineTuning` explains them."""

    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def folds(self) -> int: ...
    @property
    def few(self) -> int: ...
    @property
    def held_out(self) -> float: ...
    @property
    def longer(self) -> int: ...


def enough_studies(studies: list[LabelledStudy], network: str) -> list[LabelledStudy]:
    """The same studies. Raises ValueError where the network of this name could hold none out."""
    if len(studies) < FEWEST:
        raise ValueError(
            f"{network} learns from {FEWEST} labelled studies at the least, because one is held out, got "
            f"{len(studies)}: label another study"
        )
    return studies


def plan(manual: Sequence[bool], settings: Settings) -> tuple[Phase, ...]:
    """The phases for some studies.

    Args:
        manual: for each study, whether a person drew its label: while there are such, no others are asked about, and
            they alone count as few or many.

    Raises:
        ValueError: there is none.
    """
    count = len(manual)
    if count < 1:
        raise ValueError("training needs at least one study with a final label: save one first")
    if count == 1:
        return (Phase("the one study", (0,)),)
    fit = _fit(manual)
    if len(fit) > settings.few:
        return (_phase("most studies", count, fit[:: round(1 / settings.held_out)], fit),)
    everyone = sorted(range(count), key=lambda n: n not in fit)
    folds = min(settings.folds, count)
    parts = [everyone[fold::folds] for fold in range(folds)]
    turns = [_phase(f"fold {number} of {folds}", count, part, fit) for number, part in enumerate(parts, start=1)]
    return (*(turn for turn in turns if turn.held_out), Phase("all studies", tuple(range(count))))


def phases_of(studies: Sequence[LabelledStudy], settings: Settings) -> tuple[Phase, ...]:
    """`plan` for some studies; two halves of one and the whole of it take turns and come last.

    Raises:
        ValueError: there is none.
    """
    if studies and studies[0].half is not None:
        return Phase("first half", (0,), (1,)), Phase("second half", (1,), (0,)), Phase("the whole study", (2,))
    return plan([study.manually_annotated for study in studies], settings)


def held_out_ids(studies: Sequence[LabelledStudy], settings: Settings) -> set[str]:
    """Ids of the studies that are held out in some phase."""
    return {studies[place].id for phase in phases_of(studies, settings) for place in phase.held_out}


def phase_epochs(manual: Sequence[bool], settings: Settings) -> int:
    """Epochs of each phase of `plan`."""
    return settings.epochs * (settings.longer if len(_fit(manual)) > settings.few else 1)


def _fit(manual: Sequence[bool]) -> list[int]:
    """Places of the studies that may be asked about."""
    return [place for place, own in enumerate(manual) if own] or list(range(len(manual)))


def _phase(name: str, count: int, apart: Sequence[int], fit: Sequence[int]) -> Phase:
    """Learns from all studies but those set apart; asks about those of them that are fit for it."""
    return Phase(name, tuple(n for n in range(count) if n not in apart), tuple(n for n in sorted(apart) if n in fit))
