"""What templates answer about an image: in which planes it is cut, which template slices vote on which slices of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.imaging.volumes import Stack, long_axis, smallest_part, thick_axis
from lib.inference.control import Control
from lib.inference.matching import Match, match
from lib.inference.probabilities import at_both
from lib.inference.slice_network import SliceNetwork
from lib.inference.templates import Template, TemplateError
from lib.inference.voting import Guide, Tally, vote
from lib.networks.contract import Features
from lib.segmenters.contract import checked_labels
from lib.segmenters.settings import SegmenterSettings

PLANES = (0, 1, 2)

Chosen = Mapping[str, Sequence[Template]]  # structure to its templates


@dataclass(frozen=True, eq=False)
class Shown:
    """A structure as a template shows it, on the template's grid.

    Attributes:
        mask: bool; painted, or the answer to the template's prompt.
        prompt: clicks and strokes on a flat image, with the probabilities of the answer as previous mask. They say what
            was meant and how sure the answer is; a mask says neither, and gave 2.1 (strokes) to 4.4 Dice (clicks) less.
            The answer to a box is cut to reach its sides, which only the mask shows.
    """

    mask: np.ndarray
    prompt: Prompt | None = None


Shows = Mapping[tuple[str, str], Shown]  # (template id, structure) to how it is shown


@dataclass(frozen=True, eq=False)
class TemplateAnswers:
    """What the templates answered about an image.

    Attributes:
        chosen: the templates of each structure.
        planes: each plane's stack with its logits (N, K, S, S), K in the order of `chosen`; the main plane last.
        queries: features of the main stack's slices.
        guides: each structure's templates, as they were matched to the main stack.
        tally: see `lib.inference.voting`.
        least_islands: structure to the share of its largest part that another must have, from how its templates look.
        slices_per_query: slices of each template that a slice was compared with.
    """

    chosen: Chosen
    planes: Sequence[tuple[Stack, np.ndarray]]
    queries: Mapping[int, Features]
    guides: Mapping[str, list[Guide]]
    tally: Tally
    least_islands: Mapping[str, float]
    slices_per_query: int

    @property
    def stack(self) -> Stack:
        """The main one."""
        return self.planes[-1][0]

    def of(self, place: int) -> list[tuple[Stack, np.ndarray]]:
        """Each plane's stack with the logits (N, S, S) of one structure."""
        return [(stack, votes[:, place]) for stack, votes in self.planes]


def choose(templates: Sequence[Template], labels: Mapping[str, int], most: int) -> Chosen:
    """At most so many templates of each structure that is wanted, the first ones given.

    Raises:
        TemplateError: no template shows one of the structures, or the labels cannot be told apart.
    """
    chosen = {name: [t for t in templates if name in t.structures][:most] for name in checked_labels(labels)}
    if lacking := [name for name, own in chosen.items() if not own]:
        shown = sorted({name for template in templates for name in template.structures})
        raise TemplateError(f"the templates show {shown}, got {lacking}: save a study with it first, or leave it out")
    return chosen


def shown_by(chosen: Chosen, answer: Callable[[Template, str], Shown]) -> Shows:
    """What each template shows of its structures; `answer` says it of one that is only prompted."""
    shows = {}
    for name, templates in chosen.items():
        for template in templates:
            painted = template.prompt_of(name).mask if name in template.painted else None
            shows[template.id, name] = answer(template, name) if painted is None else Shown(painted)
    return shows


def ask(
    network: SliceNetwork, image: Image, chosen: Chosen, shows: Shows, settings: SegmenterSettings, control: Control
) -> TemplateAnswers:
    """Ask the chosen templates of each structure, which show it as `shows` says.

    Raises:
        Cancelled: the control stopped it.
    """
    names = list(chosen)
    stacks = _stacks(image, chosen, shows, settings.all_planes)
    count = settings.match.slices_per_query if len(stacks) == 1 else 1
    planes = []
    for place, stack in reversed(list(enumerate(stacks))):  # the main one last: its features are needed further
        done = len(stacks) - 1 - place
        within = control.part(0.9 * done / len(stacks), 0.9 * (done + 1) / len(stacks))
        queries = network.encode(stack, range(len(stack)), control=within.part(0, 0.2))
        guides = _guides(network, stack, chosen, shows, settings)
        tally = Tally()
        votes = vote(network, queries, [guides[name] for name in names], count, within.part(0.2, 1), tally)
        logits = np.stack([votes[index] for index in range(len(stack))])
        for finer in resolutions(network, stack, settings.finer)[1:]:
            closer = _guides(finer, stack, chosen, shows, settings)
            again = vote(finer, finer.encode(stack, [0]), [closer[name] for name in names], count, within.part(1, 1))
            logits = at_both(logits, again[0][None])
        planes.append((stack, logits))
    least = {name: settings.least_island * _smallest_part(own, name, shows) for name, own in chosen.items()}
    return TemplateAnswers(chosen, planes, queries, guides, tally, least, count)


def resolutions(network: SliceNetwork, stack: Stack, finer: int) -> list[SliceNetwork]:
    """The network, and where a flat image has more pixels than it sees, the same at `finer` times its size."""
    flat = len(stack) == 1 and max(stack.slice(0).shape) > network.size
    return [network, network.at(finer * network.size)] if flat and finer > 1 else [network]


def _stacks(image: Image, chosen: Chosen, shows: Shows, all_planes: bool) -> list[Stack]:
    """The image cut in the plane that suits it, its template and the structures; then, if wanted, in the others."""
    main = Stack.of(image)
    if thick_axis(main.spacing) is None:
        first = next(own[0] for own in chosen.values())
        union = np.logical_or.reduce([shown.mask for (id, _), shown in shows.items() if id == first.id])
        pattern = Stack.of(first.image)
        main = Stack.of(image, otherwise=Stack.of(first.image, otherwise=long_axis(pattern, union)).axis)
    alike = thick_axis(main.spacing) is None and min(main.array.shape) > 1
    if not (all_planes and alike):
        return [main]
    return [main, *(Stack.of(image, plane=plane) for plane in PLANES if plane != main.axis)]


def _guides(
    network: SliceNetwork, stack: Stack, chosen: Chosen, shows: Shows, settings: SegmenterSettings
) -> dict[str, list[Guide]]:
    """For each structure its templates, cut like the query and matched to it."""
    guides: dict[str, list[Guide]] = {name: [] for name in chosen}
    matched: dict[str, tuple[Stack, Match]] = {}
    for name, templates in chosen.items():
        for template in templates:
            if template.id not in matched:
                other = Stack.of(template.image, plane=stack.axis)
                matched[template.id] = (other, match(stack, other, settings.match))
            other, own = matched[template.id]
            shown = shows[template.id, name]
            slices = other.slices_of(shown.mask)
            showing = slices.any(axis=(1, 2))
            features = network.encode(other, np.flatnonzero(showing).tolist())
            prompts = {}
            if shown.prompt is not None and len(other) == 1:
                prompts[0] = other.prompt(shown.prompt).on_slice(other.axis, 0)
            guides[name].append(Guide(other, features, own, showing, slices, prompts))
    return guides


def _smallest_part(templates: Sequence[Template], name: str, shows: Shows) -> float:
    """Of a structure in its templates, as a share of its largest part there."""
    return min(smallest_part(Stack.of(t.image).turned(shows[t.id, name].mask)) for t in templates)
