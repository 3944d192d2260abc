"""What every segmentation model offers: a study's image in, a mask on the same grid out.

Tasks, the background job and the evaluation know models only by this. A model that segments by templates takes them
from a study list; one with a closed vocabulary knows its structures and ignores templates; one without prompt types
refuses prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from lib.imaging.images import Image, ImageError
from lib.imaging.label_maps import Box, boxes_of, centre_of
from lib.imaging.prompts import Prompt, PromptError, PromptType
from lib.inference.control import Cancelled, Control
from lib.inference.templates import Template, TemplateError

__all__ = ["Cancelled", "Capabilities", "Control", "Prediction", "Segmenter", "checked_labels"]

MOST_LABELS = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Capabilities:
    """What a model can do.

    Attributes:
        name: in provenance, and of tasks, trainers and folders.
        dimensions: whether its network sees slices or volumes.
        channels: numbers of channels that an image may have.
        most_templates: templates that its network reads in one pass; 0 for a model that takes none.
        usual_templates: templates of a structure that it is asked with where nobody says how many, at most.
        prompt_types: of prompts on the image itself; empty for a model that is not interactive.
        vocabulary: the structures that it knows, None for one that finds whatever templates or prompts show.
    """

    name: str
    dimensions: Literal[2, 3]
    channels: tuple[int, ...] = (1,)
    most_templates: int = 1
    usual_templates: int = 4
    prompt_types: frozenset[PromptType] = frozenset(PromptType)
    vocabulary: tuple[str, ...] | None = None

    def check_structures(self, names: Sequence[str]) -> None:
        """Raise TemplateError for a structure outside the vocabulary."""
        unknown = [name for name in names if self.vocabulary is not None and name not in self.vocabulary]
        if unknown:
            raise TemplateError(
                f"{self.name} knows {', '.join(self.vocabulary or ())}, got {', '.join(unknown)}: leave them out, or "
                "train it on studies that show them"
            )

    def check_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Raise PromptError for a prompt that the model does not take."""
        if not self.prompt_types:
            raise PromptError(f"{self.name} segments without prompts: use one of the interactive models")
        for name, prompt in prompts.items():
            if refused := prompt.types - self.prompt_types:
                raise PromptError(
                    f"{self.name} takes {_names(self.prompt_types)}, got {_names(refused)} for {name!r}: prompt "
                    "with one of the former"
                )

    def check_channels(self, count: int) -> None:
        """Raise ImageError for an image with a number of channels that the model does not take."""
        if count not in self.channels:
            allowed = " or ".join(map(str, self.channels))
            raise ImageError(f"{self.name} takes images of {allowed} channels, got {count}: choose a study with them")


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask and where it comes from.

    Attributes:
        mask: uint8 or uint16 label indices in the image's shape.
        labels: structure name to index, of the structures that were wanted.
        quality: structure name to predicted Dice, 0 to 1; of an interactive answer its agreement with itself; empty
            where nothing predicts the quality of the model's masks.
        provenance: JSON-able record: model, weights, templates, prompt types and quality (`lib.quality.estimate`).
    """

    mask: np.ndarray
    labels: Mapping[str, int]
    quality: Mapping[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def boxes(self) -> Mapping[str, Box]:
        """Structure to the box of its voxels, of those that the mask holds."""
        boxes = boxes_of(self.mask)
        return {name: boxes[index] for name, index in self.labels.items() if index in boxes}

    @property
    def centres(self) -> Mapping[str, tuple[float, ...]]:
        """Structure to its centre of mass in voxel indices, of those that the mask holds."""
        return {name: centre_of(self.mask, self.labels[name], box) for name, box in self.boxes.items()}


class Segment(Protocol):
    """Segments an image without prompts on it: `Segmenter.segment`, or what takes its place."""

    def __call__(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
    ) -> Prediction: ...


class Segmenter(Protocol):
    """A model with its weights, on its device. It may be called from several threads."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def fingerprint(self) -> str:
        """Changes with the weights, and with any setting that changes masks."""

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
    ) -> Prediction:
        """Segment an image without prompts on it.

        Args:
            image: with a number of channels that the model takes (`Image.channels`).
            templates: in order of preference; one that does not show a structure says nothing about it. A model that
                takes none ignores them.
            labels: structures wanted, name to index (1 or more) in the mask.
            control: follows the work and may end it.

        Raises:
            TemplateError: a structure that no template shows, or that the model does not know.
            Cancelled: the control stopped it.
        """

    def interact(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        *,
        axis: int | None = None,
        only_slice: bool = False,
        control: Control = Control(),
    ) -> Prediction:
        """Segment what prompts on the image point at.

        Args:
            prompts: structure name to prompt, in voxel indices of `image`.
            labels: structure name to index (1 or more), for at least the prompted ones.
            axis: array axis along which the annotator scrolls; by default the model's choice.
            only_slice: answer the prompted slices and nothing else.
            control: as in `segment`.

        Raises:
            PromptError: nothing was prompted, a prompt leaves the image, or the model takes no such prompts.
            Cancelled: the control stopped it.
        """


def checked_labels(labels: Mapping[str, int]) -> list[str]:
    """The names of some labels. Raises TemplateError where there are none, or where indices are not different."""
    if not labels:
        raise TemplateError("at least one structure must be asked for, got none: pass {name: index}")
    wrong = {name: index for name, index in labels.items() if not 1 <= int(index) <= MOST_LABELS}
    if wrong or len(set(labels.values())) < len(labels):
        raise TemplateError(f"labels need different indices from 1 to 65535, got {dict(labels)}: renumber them")
    return list(labels)


def _names(types: frozenset[PromptType]) -> str:
    return ", ".join(sorted(kind.value for kind in types))
