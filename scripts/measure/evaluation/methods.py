"""What `scripts.evaluate` asks of anything that segments: the same questions for One-Prompt and for its baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lib.imaging.prompts import Prompt, PromptType
from scripts.measure.evaluation.cases import Case


@dataclass(frozen=True, eq=False)
class TemplateQuestion:
    """One question with its images.

    Attributes:
        query: image to segment; a method must not look at its label.
        templates: one or more labelled images of other subjects.
        names: value in the label maps to structure name, of the structures wanted.
    """

    query: Case
    templates: tuple[Case, ...]
    names: Mapping[int, str]


Answer = Mapping[int, np.ndarray]  # structure value to bool mask in the query's shape


class TemplateMethod(Protocol):
    """Segments by templates.

    Attributes:
        name: how the method is called in tables.
        prompts: kinds of template prompt it takes.
        most_templates: asks for more are passed over.
        fingerprint: changes when its answers may.
    """

    name: str
    prompts: tuple[PromptType, ...]
    most_templates: int
    fingerprint: str

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """An answer to each question, in order; structures that no template shows are missing from it."""


class ClickMethod(Protocol):
    """Segments by clicks on the image itself; see `TemplateMethod` for the attributes."""

    name: str
    fingerprint: str

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Bool masks in the images' shapes, one for each image and the prompt on it.

        A prompt holds all clicks so far and, after the first answer, that answer as `previous`.
        """
