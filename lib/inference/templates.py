"""Templates, and the bank that finds the ones most like an image.

A template is a labelled or prompted study that shows what to segment. The bank stores nothing of its own: templates
live in a study list, `TemplateBank` loads them when asked and remembers what it may forget at any time.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from cachetools import LRUCache

from lib.imaging.image import Image, add_voxels
from lib.imaging.label_maps import boxes_of
from lib.imaging.prompts import Prompt, PromptType
from lib.imaging.transforms import normalise
from lib.imaging.volumes import Stack
from lib.inference.ranking import mmr_selection

DESCRIPTOR = (16, 16, 8)  # voxels; enough for pose, field of view and contrast, too few for detail
DIVERSITY = 0.2  # see `lib.inference.ranking.mmr_selection`
LOADED = 2**30  # bytes of templates kept in memory where nothing else is said
CANDIDATES = 4  # times as many templates as are wanted, the most similar ones, are weighed against each other


class TemplateError(ValueError):
    """A template that shows nothing, or a structure that no template shows."""


@dataclass(frozen=True, eq=False)
class Template:
    """A study that shows structures by a label map, by prompts, or by both.

    Attributes:
        id: name of the study.
        image: its image.
        label: integer label map of the image's shape, None where there are only prompts.
        names: structure name to its value in `label`; a name whose value does not occur is not a structure of it.
        prompts: structure name to a prompt on the image, for structures that are not painted.
        checksum: changes when anything here does; computed from it where none is given.
        structures: names it shows, in the order of `names` and `prompts`.
        painted: those of them that the label map shows, so that no prompt is needed.

    Raises:
        TemplateError: the label does not fit the image, or no structure is shown at all.
        PromptError: a prompt leaves the image.
    """

    id: str
    image: Image
    label: np.ndarray | None
    names: Mapping[str, int]
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    checksum: str = ""
    structures: tuple[str, ...] = field(init=False)
    painted: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        shape = self.image.array.shape
        if self.label is not None and (self.label.shape != shape or self.label.dtype.kind not in "bui"):
            raise TemplateError(
                f"the label of template {self.id} must hold integers in its image's shape {shape}, "
                f"got {self.label.dtype} in {self.label.shape}"
            )
        for prompt in self.prompts.values():
            prompt.validate(shape)
        present = set() if self.label is None else set(boxes_of(self.label))
        painted = [name for name, value in self.names.items() if value in present]
        prompted = [name for name, prompt in self.prompts.items() if not prompt.is_empty]
        object.__setattr__(self, "painted", frozenset(painted))
        object.__setattr__(self, "structures", tuple(dict.fromkeys([*painted, *prompted])))
        if not self.structures:
            raise TemplateError(
                f"template {self.id} must show at least one structure, but its label holds {sorted(present)} for "
                f"{dict(self.names)} and it has no prompts: paint or prompt one"
            )
        if not self.checksum:
            object.__setattr__(self, "checksum", self._digest())

    def prompt_of(self, structure: str) -> Prompt:
        """What shows a structure: its mask (SegLab) where painted, else its prompt.

        Raises:
            TemplateError: the template does not show the structure.
        """
        if structure not in self.structures:
            raise TemplateError(f"template {self.id} shows {list(self.structures)}, not {structure!r}")
        if self.label is not None and structure in self.painted:
            return Prompt(mask=self.label == self.names[structure])
        return self.prompts[structure]

    def prompt_types(self, structure: str) -> frozenset[PromptType]:
        """The paper's types of the prompt that shows the structure."""
        return self.prompt_of(structure).types

    def _digest(self) -> str:
        digest = hashlib.sha256(self.image.checksum.encode())
        digest.update(repr(sorted(self.names.items())).encode())
        if self.label is not None:
            add_voxels(digest, self.label)
        for name, prompt in sorted(self.prompts.items()):
            for part in fields(prompt):
                value = getattr(prompt, part.name)
                digest.update(f"{name} {part.name} {None if isinstance(value, np.ndarray) else value}".encode())
                if isinstance(value, np.ndarray):
                    add_voxels(digest, value)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Summary:
    """What stays in memory of every template: too little to matter, enough to choose.

    Attributes:
        structures: names that it shows.
        descriptor: (D,) of unit length, see `study_descriptor`.
    """

    structures: tuple[str, ...]
    descriptor: np.ndarray


class TemplateBank:
    """A view over the templates of a study list; safe to share between threads.

    Args:
        load: reads a template by its id.
        summarise: what to remember of a template by its id, where that can be had without loading it.
        room: bytes of templates kept in memory; the least recently used go first, and one that is larger is the only
            one there.
    """

    def __init__(
        self,
        load: Callable[[str], Template],
        summarise: Callable[[str], Summary] | None = None,
        room: int = LOADED,
    ) -> None:
        self._load, self._summarise = load, summarise or self._load_summary
        self._records: dict[str, str] = {}
        self._loaded: LRUCache[tuple[str, str], Template] = LRUCache(room, getsizeof=lambda one: min(_size(one), room))
        self._summaries: dict[tuple[str, str], Summary] = {}
        self._showing: dict[str, tuple[list[str], np.ndarray]] = {}  # structure: ids, descriptors (T, D)
        self._lock = threading.RLock()

    def refresh(self, records: Mapping[str, str]) -> None:
        """Take over the list's current templates, id to checksum; what changed is loaded again when next needed."""
        with self._lock:
            if self._records == records:
                return
            self._records, self._showing = dict(records), {}
            current = set(self._records.items())
            for remembered in (self._loaded, self._summaries):
                for key in [key for key in remembered if key not in current]:
                    del remembered[key]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all templates, sorted."""
        with self._lock:
            return tuple(sorted(self._records))

    @property
    def records(self) -> Mapping[str, str]:
        """Id to checksum of all templates."""
        return self._records

    @property
    def held(self) -> int:
        """Bytes of the templates in memory."""
        with self._lock:
            return sum(map(_size, self._loaded.values()))

    def __len__(self) -> int:
        return len(self._records)

    @property
    def structures(self) -> tuple[str, ...]:
        """Every structure that some template shows, sorted."""
        return tuple(sorted({name for id in self.ids for name in self._summary(id).structures}))

    def get(self, id: str) -> Template:
        """Load a template, or take it from memory. Raises TemplateError for an id that the list does not have."""
        with self._lock:
            if id not in self._records:
                raise TemplateError(f"the templates are {list(self.ids)}, got {id!r}: save a label for it first")
            key = (id, self._records[id])
            template: Template | None = self._loaded.get(key)
            if template is None:
                template = self._loaded[key] = self._load(id)
            return template

    def select(self, image: Image, structure: str, n: int) -> list[Template]:
        """At most `n` templates that show the structure, the one most like the image first."""
        return [self.get(id) for id in self.choose(study_descriptor(image), structure, n)]

    def choose(self, descriptor: np.ndarray, structure: str, n: int, without: str | None = None) -> tuple[str, ...]:
        """Ids of at most `n` templates that show the structure: like the query, and not all alike.

        Args:
            descriptor: of the query, see `study_descriptor`.
            without: id of the query, which is its own template only where there is no other.
        """
        with self._lock:
            if structure not in self._showing:
                showing = [id for id in self.ids if structure in self._summary(id).structures]
                own = [self._summary(id).descriptor for id in showing]
                self._showing[structure] = showing, np.stack(own) if own else np.zeros((0, len(descriptor)))
            ids, descriptors = self._showing[structure]
        places = [place for place, id in enumerate(ids) if id != without] or list(range(len(ids)))
        if len(places) > 1:
            similarity = descriptors[places] @ descriptor
            near = np.argsort(-similarity, kind="stable")[: CANDIDATES * n]
            nearest = descriptors[places][near]
            order = mmr_selection(similarity[near], nearest @ nearest.T, n, DIVERSITY)
            places = [places[near[place]] for place in order]
        return tuple(ids[place] for place in places[:n])

    def _summary(self, id: str) -> Summary:
        with self._lock:
            key = (id, self._records.get(id, ""))
            if key not in self._summaries:
                self._summaries[key] = self._summarise(id)
            return self._summaries[key]

    def _load_summary(self, id: str) -> Summary:
        template = self.get(id)
        return Summary(template.structures, study_descriptor(template.image))


def _size(template: Template) -> int:
    """Bytes of a template's arrays."""
    parts = [template.image.array, template.label]
    parts += [getattr(prompt, part.name) for prompt in template.prompts.values() for part in fields(prompt)]
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))


def study_descriptor(image: Image) -> np.ndarray:
    """(D,) of unit length: the image, turned as all stacks are, at `DESCRIPTOR` voxels and normalised.

    The inner product of two descriptors is the correlation of their grey values.
    """
    canonical = torch.from_numpy(np.ascontiguousarray(Stack.of(image).array).astype(np.float32))
    small = torch.nn.functional.adaptive_avg_pool3d(canonical[None, None], DESCRIPTOR)
    descriptor = normalise(small.numpy().ravel())
    length = float(np.linalg.norm(descriptor))
    return descriptor / length if length > 0 else descriptor
