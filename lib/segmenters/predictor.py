"""Raw image in, mask on the same grid out: by templates (`segment`) or by prompts on the image itself (`interact`).

The unit of work is a study. Its slices are encoded once, whatever the number of structures; each is compared with the
template slices that correspond to it (`lib.inference.matching`, `lib.inference.voting`), all structures go through the
decoder in the same batches, and the logits of the averaged probabilities are brought back to the image's grid, where
structures and background compete.

A predictor may be called from several threads: the network keeps no state, its cache has a lock, and calls do not wait
for each other. Whoever needs an order calls in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lib.imaging.images import Image, ImageError
from lib.imaging.prompts import Prompt, PromptError
from lib.imaging.transforms import resize_logits
from lib.imaging.volumes import Stack, long_axis, remove_small_components, smallest_part, smooth, thick_axis
from lib.inference.closer import cropped, cropped_template, share, window_of
from lib.inference.interaction import Answer, Interaction, InteractionSettings
from lib.inference.matching import Match, MatchSettings, match
from lib.inference.probabilities import dice_optimal_threshold
from lib.inference.slice_network import Checkpoint, SliceNetwork
from lib.inference.templates import Template, TemplateError
from lib.inference.voting import ABSENT_LOGIT, Guide, Tally, vote
from lib.networks import Features, OnePrompt
from lib.networks.checkpoints import weights_hash
from lib.quality.augmented_views import AugmentedViews
from lib.quality.estimate import judge, told
from lib.quality.estimator import Estimator
from lib.quality.features import Making, gather

PROVENANCE_VERSION = 1
CERTAIN = 1e3  # logit of what was painted or answered before: nothing outvotes it
PLANES = (0, 1, 2)


class Cancelled(Exception):
    """Raised by a checkpoint to end a prediction; the caller sees it again."""


@dataclass(frozen=True)
class PredictorSettings:
    """Switches of the prediction, each measured in docs/experiments.md.

    Attributes:
        match: how slices of query and template find each other.
        templates_per_query: templates asked for each structure, the first ones given.
        all_planes: cut a volume with equal spacings in all three planes and average; each then asks one template slice
            for a slice instead of `match.slices_per_query`, which is about as much work.
        least_probability: answers by templates are cut where the expected Dice is highest, from this probability to one
            half; 0.5 cuts them at one half (`lib.inference.probabilities`).
        closer: structures found in less than this part of the image's sides are looked at again in a window around
            them; 0 for none.
        smoothing: sigma of the Gaussian that smooths logits from slice to slice, in average voxel sides; half of it in
            every direction where all planes were asked.
        least_island: connected parts smaller than this share of a structure's largest one are removed, or, where a
            structure has several parts in its templates too, smaller than this share of the smallest of those.
        interaction: how a mask passes through a volume.
        quality_slices: slices that the predicted quality is measured on; 0 for none.
        batch_size, precision, cache_bytes: see `lib.inference.slice_network.SliceNetwork`.
    """

    match: MatchSettings = field(default_factory=MatchSettings)
    templates_per_query: int = 4
    all_planes: bool = True
    least_probability: float = 0.2
    closer: float = 0.0
    smoothing: float = 1.2
    least_island: float = 0.2
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    quality_slices: int = 6
    batch_size: int = 8
    precision: str = "auto"
    cache_bytes: int = 2**29


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """What another network says of an image's structures.

    The mask is cut where its logits and those from the templates, each 0 on its own line, have the mean 0.

    Attributes:
        stack: how the image was cut for it.
        logits: structure to (N, h, w) of that stack's slices, at any resolution.
        share: its weight in the mean, 0 to 1.
    """

    stack: Stack
    logits: Mapping[str, np.ndarray]
    share: float

    def on(self, stack: Stack, name: str) -> np.ndarray:
        """(N, H, W) logits of a structure on the slices of another stack of the same image."""
        upright = np.moveaxis(_resized(self.logits[name].astype(np.float32), self.stack), 0, self.stack.axis)
        return np.moveaxis(upright, stack.axis, 0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask and where it comes from.

    Attributes:
        mask: uint8 or uint16 label indices in the image's shape.
        labels: structure name to index, of the structures that were asked for.
        quality: structure name to predicted Dice, 0 to 1; of an interactive answer its agreement with itself.
        provenance: JSON-able record of templates, prompt types, weights and quality (see `lib.quality.estimate.told`).
    """

    mask: np.ndarray
    labels: Mapping[str, int]
    quality: Mapping[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)


class Predictor:
    """One network, asked about whole images.

    Args:
        network: on `device` already, or moved there by the caller.
        device: torch device name.
        settings: switches of the prediction.
        estimator: weighs what speaks for a mask; by default the one that ships with the weights.
    """

    def __init__(
        self,
        network: OnePrompt,
        device: str = "cpu",
        settings: PredictorSettings = PredictorSettings(),
        estimator: Estimator | None = None,
    ) -> None:
        self.settings = settings
        self.weights_hash = weights_hash(network)
        self._network = SliceNetwork(network, device, settings.batch_size, settings.precision, settings.cache_bytes)
        self._copies = AugmentedViews(self._network)
        self._estimator = estimator or Estimator.shipped()

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        checkpoint: Checkpoint | None = None,
        second: SecondOpinion | None = None,
    ) -> Prediction:
        """Segment an image by templates.

        Args:
            templates: in order of preference; one that does not show a structure says nothing about it.
            labels: structures wanted, name to index (1 or more) in the mask.
            checkpoint: called with the fraction done between batches; may block, may raise `Cancelled`.
            second: is heard too, on those of the structures that it knows.

        Raises:
            TemplateError: no template shows one of the structures.
        """
        chosen, report = self._chosen(templates, labels), _Report(checkpoint)
        masks = self._template_masks(chosen)
        first = report.part(0, 0.7 if self.settings.closer else 1)
        asked = self._ask(image, chosen, masks, first)
        prediction = self._judged(asked, labels, self._slices(asked, labels, second), first)
        if self.settings.closer:
            own = {name: found for name, found in chosen.items() if not second or name not in second.logits}
            self._look_closer(image, prediction, own, masks, report.part(0.7, 1))
        return prediction

    def masks(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        seconds: Sequence[SecondOpinion | None],
    ) -> list[np.ndarray]:
        """The mask of `segment` with each of some second opinions (None: with none); the templates are asked once.

        Nothing is looked at again closer.

        Raises:
            TemplateError: no template shows one of the structures.
        """
        chosen = self._chosen(templates, labels)
        asked = self._ask(image, chosen, self._template_masks(chosen), _Report(None))
        return [asked.stack.restored(self._slices(asked, labels, second)) for second in seconds]

    def _ask(
        self,
        image: Image,
        chosen: Mapping[str, Sequence[Template]],
        masks: Mapping[tuple[str, str], np.ndarray],
        report: _Report,
    ) -> _Asked:
        """Ask the chosen templates of each structure, which show it in `masks`."""
        names = list(chosen)
        stacks = self._stacks(image, chosen, masks)
        count = self.settings.match.slices_per_query if len(stacks) == 1 else 1
        answers = []
        for place, stack in reversed(list(enumerate(stacks))):  # the main one last: its features are needed further
            done = len(stacks) - 1 - place
            within = report.part(0.9 * done / len(stacks), 0.9 * (done + 1) / len(stacks))
            queries = self._network.encode(stack, range(len(stack)), checkpoint=within.part(0, 0.2))
            guides = self._guides(stack, chosen, masks)
            tally = Tally()
            votes = vote(
                self._network,
                queries,
                [guides[name] for name in names],
                count,
                checkpoint=within.part(0.2, 1),
                tally=tally,
            )
            answers.append((stack, np.stack([votes[index] for index in range(len(stack))])))
        least = {name: self._least_island(found, name, masks) for name, found in chosen.items()}
        return _Asked(chosen, answers, queries, guides, tally, least)

    def _slices(self, asked: _Asked, labels: Mapping[str, int], second: SecondOpinion | None) -> np.ndarray:
        """Label indices (N, H, W) of what the templates answered, and the second opinion on its structures."""

        def logits(place: int, name: str) -> np.ndarray:
            found = self._cut(self._joined(asked.stack, asked.of(place)))
            if second and name in second.logits:
                found = (1 - second.share) * found + second.share * second.on(asked.stack, name)
            return found

        volumes = ((labels[name], logits(place, name)) for place, name in enumerate(asked.chosen))
        return self._competing(asked.stack, volumes, {labels[name]: least for name, least in asked.least.items()})

    def _judged(self, asked: _Asked, labels: Mapping[str, int], slices: np.ndarray, report: _Report) -> Prediction:
        """The mask with its predicted quality."""
        report(0.95)
        evidence = {}
        for place, name in enumerate(asked.chosen if self.settings.quality_slices else ()):
            mask, guides = slices == labels[name], asked.guides[name]
            making = Making(asked.stack, asked.queries, guides, asked.of(place), place, asked.tally, mask)
            evidence[name] = gather(self._network, self._copies, making, self.settings.quality_slices)
        judged = {name: judge(found, self._estimator) for name, found in evidence.items()}
        types = {name: _values(found[0].prompt_types(name)) for name, found in asked.chosen.items()}
        ids = list(dict.fromkeys(template.id for found in asked.chosen.values() for template in found))
        return self._prediction(asked.stack, slices, labels, ids, types, told(judged, evidence))

    def interact(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        *,
        axis: int | None = None,
        only_slice: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> Prediction:
        """Segment what prompts on the image point at.

        In a volume the prompted slices answer and the mask passes outward; a prompt with a previous mask changes only
        the slices it touches. Only prompted structures are in the result.

        Args:
            prompts: structure name to prompt, in voxel indices of `image`.
            labels: structure name to index (1 or more), for at least the prompted ones.
            axis: array axis to slice along; by default as `Stack.of` chooses.
            only_slice: answer the prompted slices and nothing else.
            checkpoint: as in `segment`.

        Raises:
            PromptError: nothing was prompted, a prompt leaves the image, or shows nothing of its structure.
        """
        said = {name: prompt for name, prompt in prompts.items() if not prompt.is_empty}
        if not said:
            raise PromptError(
                f"at least one structure needs a prompt, got none for {list(prompts)}: click, draw or paint"
            )
        if unknown := [name for name in said if name not in labels]:
            raise PromptError(f"prompted structures must be among the labels {list(labels)}, got {unknown}")
        labels = {name: labels[name] for name in said}
        _checked_labels(labels)
        report = _Report(checkpoint)
        stack = Stack.of(image, axis=axis)
        turned = {name: stack.prompt(prompt) for name, prompt in said.items()}
        interaction = Interaction(self._network, stack, turned, self.settings.interaction)
        answers = interaction.run(only_slice, report.part(0, 0.95))
        volumes = ((labels[name], self._filled(stack, answers[name], turned[name])) for name in said)
        slices = self._competing(stack, volumes, {})
        quality = {name: round(float(np.mean(answers[name].agreements or [1.0])), 4) for name in said}
        types = {name: _values(prompt.types) for name, prompt in said.items()}
        return self._prediction(stack, slices, labels, [], types, {"quality": quality})

    # Templates

    def _chosen(self, templates: Sequence[Template], labels: Mapping[str, int]) -> dict[str, list[Template]]:
        """The templates of each structure that is wanted."""
        chosen = {name: self._showing(name, templates) for name in _checked_labels(labels)}
        if lacking := [name for name, found in chosen.items() if not found]:
            shown = sorted({name for template in templates for name in template.structures})
            raise TemplateError(
                f"the templates show {shown}, got {lacking}: save a study with it first, or leave it out"
            )
        return chosen

    def _showing(self, name: str, templates: Sequence[Template]) -> list[Template]:
        showing = [template for template in templates if name in template.structures]
        return showing[: self.settings.templates_per_query]

    def _template_masks(self, chosen: Mapping[str, Sequence[Template]]) -> dict[tuple[str, str], np.ndarray]:
        """(template id, structure) to a bool mask on the template's grid; what is only prompted answers for itself."""
        masks = {}
        for name, templates in chosen.items():
            for template in templates:
                prompt = template.prompt_of(name)
                if prompt.mask is not None and name in template.painted:
                    masks[template.id, name] = prompt.mask
                else:
                    masks[template.id, name] = self.interact(template.image, {name: prompt}, {name: 1}).mask > 0
        return masks

    def _guides(
        self,
        stack: Stack,
        chosen: Mapping[str, Sequence[Template]],
        masks: Mapping[tuple[str, str], np.ndarray],
    ) -> dict[str, list[Guide]]:
        """For each structure its templates, cut like the query and matched to it."""
        guides: dict[str, list[Guide]] = {name: [] for name in chosen}
        matched: dict[str, tuple[Stack, Match]] = {}
        for name, templates in chosen.items():
            for template in templates:
                if template.id not in matched:
                    other = Stack.of(template.image, plane=stack.axis)
                    matched[template.id] = (other, match(stack, other, self.settings.match))
                other, found = matched[template.id]
                slices = other.slices_of(masks[template.id, name])
                shown = slices.any(axis=(1, 2))
                features = self._network.encode(other, np.flatnonzero(shown).tolist())
                guides[name].append(Guide(other, features, found, shown, slices))
        return guides

    def _look_closer(
        self,
        image: Image,
        prediction: Prediction,
        chosen: Mapping[str, Sequence[Template]],
        masks: Mapping[tuple[str, str], np.ndarray],
        report: _Report,
    ) -> None:
        """Answer small structures again in a window around them, and put what is found there into the mask."""
        for place, (name, index) in enumerate((name, prediction.labels[name]) for name in chosen):
            window = window_of(prediction.mask == index)
            if window is None or share(window, prediction.mask.shape) > self.settings.closer:
                continue
            crops = [cropped_template(template, name, masks[template.id, name]) for template in chosen[name]]
            shown = [crop for crop in crops if crop is not None]
            if not shown:
                continue
            within = report.part(place / len(chosen), (place + 1) / len(chosen))
            try:
                part = cropped(image, window)
            except ImageError:  # one grey value only
                continue
            seen = {(crop.id, name): np.asarray(crop.label) > 0 for crop in shown}
            asked = self._ask(part, {name: shown}, seen, within)
            found = asked.stack.restored(self._slices(asked, {name: index}, None))
            before = prediction.mask[window]
            free = (before == 0) | (before == index)
            before[free] = found[free]

    # From slices to a mask

    def _stacks(
        self,
        image: Image,
        chosen: Mapping[str, Sequence[Template]],
        masks: Mapping[tuple[str, str], np.ndarray],
    ) -> list[Stack]:
        """The image cut in the plane that suits it, its template and the structures; then, if wanted, in the others."""
        main = Stack.of(image)
        if thick_axis(main.spacing) is None:
            first = next(found[0] for found in chosen.values())
            union = np.logical_or.reduce([mask for (id, _), mask in masks.items() if id == first.id])
            pattern = Stack.of(first.image)
            main = Stack.of(image, otherwise=Stack.of(first.image, otherwise=long_axis(pattern, union)).axis)
        alike = thick_axis(main.spacing) is None and min(main.array.shape) > 1
        if not (self.settings.all_planes and alike):
            return [main]
        return [main, *(Stack.of(image, plane=plane) for plane in PLANES if plane != main.axis)]

    def _joined(self, main: Stack, parts: Sequence[tuple[Stack, np.ndarray]]) -> np.ndarray:
        """Mean of one structure's logits (N, S, S) from each plane, smoothed, as slices (N, H, W) of the main stack."""
        total = np.zeros(main.array.shape, np.float32)
        for stack, logits in parts:
            total += np.moveaxis(_resized(logits, stack), 0, stack.axis) / len(parts)
        spacing = [main.thickness, *(side for axis, side in enumerate(main.spacing) if axis != main.axis)]
        sigma = self.settings.smoothing
        across, within = (sigma, 0.0) if len(parts) == 1 else (sigma / 2, sigma / 2)
        return smooth(np.moveaxis(total, main.axis, 0), spacing, (across, within, within))

    def _cut(self, logits: np.ndarray) -> np.ndarray:
        """Logits moved so that the best line to cut them at is 0."""
        return logits - dice_optimal_threshold(logits, self.settings.least_probability)

    def _least_island(
        self, templates: Sequence[Template], name: str, masks: Mapping[tuple[str, str], np.ndarray]
    ) -> float:
        """Share of a structure's largest part that another must have, from how its templates look."""
        parts = [smallest_part(Stack.of(t.image).turned(masks[t.id, name])) for t in templates]
        return self.settings.least_island * min(parts)

    def _filled(self, stack: Stack, answer: Answer, prompt: Prompt) -> np.ndarray:
        """Logits (N, H, W) of an interactive answer, absent where nobody asked and outside a box."""
        shape = (len(stack), *stack.slice(0).shape)
        logits = np.full(shape, ABSENT_LOGIT, np.float32)
        for index, found in answer.logits.items():
            logits[index] = _resized(found[None], stack)[0]
        if prompt.box is not None:
            inside = np.zeros(stack.array.shape, bool)
            inside[tuple(slice(*prompt.box[2 * axis : 2 * axis + 2]) for axis in range(3))] = True
            boxed = np.moveaxis(inside, stack.axis, 0)
            limited = boxed.any(axis=(1, 2), keepdims=True) | (boxed.any(axis=(1, 2)).sum() > 1)
            logits[limited & ~boxed] = ABSENT_LOGIT
        for index, mask in answer.trusted.items():
            logits[index] = np.where(mask, CERTAIN, -CERTAIN)
        return logits

    def _competing(
        self, stack: Stack, volumes: Iterable[tuple[int, np.ndarray]], least_islands: Mapping[int, float]
    ) -> np.ndarray:
        """Label indices (N, H, W): each voxel to the structure with the largest logit above the background's 0.

        Args:
            volumes: label index and logits (N, H, W) of each structure.
            least_islands: see `remove_small_components`, for the label indices that lose their islands.
        """
        best = np.zeros((len(stack), *stack.slice(0).shape), np.float32)
        slices = np.zeros(best.shape, np.uint16)
        highest = 0
        for index, logits in volumes:
            wins = logits > best
            slices[wins], best[wins] = index, logits[wins]
            highest = max(highest, index)
        for index, least in least_islands.items():
            mask = slices == index
            slices[mask & ~remove_small_components(mask, least)] = 0
        return slices.astype(np.uint8) if highest <= np.iinfo(np.uint8).max else slices

    def _prediction(
        self,
        stack: Stack,
        slices: np.ndarray,
        labels: Mapping[str, int],
        templates: Sequence[str],
        types: Mapping[str, list[str]],
        quality: dict[str, Any],
    ) -> Prediction:
        provenance = {
            "version": PROVENANCE_VERSION,
            "network": self._network.network.config.name,
            "weights": self.weights_hash,
            "templates": list(templates),
            "prompt_types": dict(types),
            **quality,
        }
        return Prediction(stack.restored(slices), dict(labels), quality["quality"], provenance)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What the templates answered about an image.

    Attributes:
        chosen: the templates of each structure.
        answers: each stack with its logits (N, K, S, S), K in the order of `chosen`; the main stack last.
        queries: features of the main stack's slices.
        guides: each structure's templates, as they were matched to the main stack.
        tally: see `lib.inference.voting`.
        least: each structure's least island.
    """

    chosen: Mapping[str, Sequence[Template]]
    answers: Sequence[tuple[Stack, np.ndarray]]
    queries: Mapping[int, Features]
    guides: Mapping[str, list[Guide]]
    tally: Tally
    least: Mapping[str, float]

    @property
    def stack(self) -> Stack:
        """The main one."""
        return self.answers[-1][0]

    def of(self, place: int) -> list[tuple[Stack, np.ndarray]]:
        """Each stack with the logits (N, S, S) of one structure."""
        return [(stack, votes[:, place]) for stack, votes in self.answers]


class _Report:
    """Tells the caller's checkpoint how much of the whole is done."""

    def __init__(self, checkpoint: Checkpoint | None, low: float = 0.0, high: float = 1.0) -> None:
        self._checkpoint, self._low, self._high = checkpoint, low, high

    def __call__(self, fraction: float) -> None:
        if self._checkpoint:
            self._checkpoint(self._low + fraction * (self._high - self._low))

    def part(self, low: float, high: float) -> _Report:
        """The same for a part of the work, from `low` to `high` of this one's."""
        span = self._high - self._low
        return _Report(self._checkpoint, self._low + low * span, self._low + high * span)


def _resized(logits: np.ndarray, stack: Stack) -> np.ndarray:
    """(N, S, S) to (N, H, W) of the stack's slices."""
    return resize_logits(torch.from_numpy(logits)[:, None], stack.slice(0).shape)[:, 0].numpy()


def _checked_labels(labels: Mapping[str, int]) -> list[str]:
    if not labels:
        raise TemplateError("at least one structure must be asked for, got none: pass {name: index}")
    wrong = {name: index for name, index in labels.items() if not 1 <= int(index) <= np.iinfo(np.uint16).max}
    if wrong or len(set(labels.values())) < len(labels):
        raise TemplateError(f"labels need different indices from 1 to 65535, got {dict(labels)}: renumber them")
    return list(labels)


def _values(types: Iterable[Any]) -> list[str]:
    return sorted(kind.value for kind in types)
