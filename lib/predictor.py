"""Raw image in, mask on the same grid out: by templates (`segment`) or by prompts on the image itself (`interact`).

The unit of work is a study. Its slices are encoded once, whatever the number of structures; each is compared with the
template slices that correspond to it (`lib.matching`, `lib.voting`), all structures go through the decoder in the same
batches, and the averaged logits are brought back to the image's grid, where structures and background compete.

A predictor may be called from several threads: the network keeps no state, its cache has a lock, and calls do not wait
for each other. Whoever needs an order calls in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lib.checkpoints import weights_hash
from lib.images import Image
from lib.interaction import Answer, Interaction, InteractionSettings
from lib.matching import MatchSettings, match
from lib.networks import Features, OnePrompt
from lib.prompts import Prompt, PromptError
from lib.quality import ReverseCase, reverse_dice, spread
from lib.slice_network import Checkpoint, SliceNetwork, descriptors, mask_maps
from lib.templates import Template, TemplateError
from lib.transforms import resize_logits
from lib.volumes import Stack, long_axis, smooth_along, thick_axis, without_islands
from lib.voting import ABSENT_LOGIT, Guide, vote

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
        all_planes: cut a volume with equal spacings in all three planes and average; three times the work.
        smooth_mm: sigma of the Gaussian that smooths logits from slice to slice.
        least_island: connected parts smaller than this share of a structure's largest one are removed.
        interaction: how a mask passes through a volume.
        quality_slices: slices that the predicted quality is measured on; 0 for none.
        batch_size, precision, cache_bytes: see `lib.slice_network.SliceNetwork`.
    """

    match: MatchSettings = field(default_factory=MatchSettings)
    templates_per_query: int = 4
    all_planes: bool = False
    smooth_mm: float = 1.0
    least_island: float = 0.1
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    quality_slices: int = 6
    batch_size: int = 8
    precision: str = "auto"
    cache_bytes: int = 2**29


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask and where it comes from.

    Attributes:
        mask: uint8 or uint16 label indices in the image's shape.
        labels: structure name to index, of the structures that were asked for.
        quality: structure name to predicted Dice, 0 to 1: reverse Dice, not calibrated.
        provenance: JSON-able record of templates, prompt types, weights and quality.
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
    """

    def __init__(
        self, network: OnePrompt, device: str = "cpu", settings: PredictorSettings = PredictorSettings()
    ) -> None:
        self.settings = settings
        self.weights_hash = weights_hash(network)
        self._network = SliceNetwork(network, device, settings.batch_size, settings.precision, settings.cache_bytes)

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        checkpoint: Checkpoint | None = None,
    ) -> Prediction:
        """Segment an image by templates.

        Args:
            templates: in order of preference; one that does not show a structure says nothing about it.
            labels: structures wanted, name to index (1 or more) in the mask.
            checkpoint: called with the fraction done between batches; may block, may raise `Cancelled`.

        Raises:
            TemplateError: no template shows one of the structures.
        """
        names = _checked_labels(labels)
        chosen = {name: self._showing(name, templates) for name in names}
        if lacking := [name for name, found in chosen.items() if not found]:
            shown = sorted({name for template in templates for name in template.structures})
            raise TemplateError(
                f"the templates show {shown}, got {lacking}: save a study with it first, or leave it out"
            )
        report = _Report(checkpoint)
        masks = self._template_masks(chosen)
        stacks = self._stacks(image, chosen, masks)
        answers = []
        for place, stack in enumerate(stacks):
            within = report.part(0.9 * place / len(stacks), 0.9 * (place + 1) / len(stacks))
            queries = self._network.encode(stack, range(len(stack)), checkpoint=within.part(0, 0.2))
            guides = self._guides(stack, queries, chosen, masks)
            votes = vote(
                self._network,
                queries,
                [guides[name] for name in names],
                self.settings.match.slices_per_query,
                checkpoint=within.part(0.2, 1),
            )
            answers.append((stack, queries, guides, np.stack([votes[index] for index in range(len(stack))])))
        volumes = (
            (labels[name], self._smoothed(stacks[0], self._joined([(s, v[:, place]) for s, _, _, v in answers])))
            for place, name in enumerate(names)
        )
        slices = self._competing(stacks[0], volumes)
        report(0.95)
        stack, queries, guides, _ = answers[0]
        quality = {name: self._quality(queries, guides[name], slices == labels[name]) for name in names}
        types = {name: _values(found[0].prompt_types(name)) for name, found in chosen.items()}
        asked = list(dict.fromkeys(template.id for found in chosen.values() for template in found))
        return self._prediction(stack, slices, labels, quality, asked, types)

    def interact(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        *,
        templates: Sequence[Template] = (),
        axis: int | None = None,
        only_slice: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> Prediction:
        """Segment what prompts on the image point at.

        In a volume the prompted slices answer and the mask passes outward; a prompt with a previous mask changes only
        the slices it touches. Structures that templates show are segmented by both. Only prompted structures are in
        the result.

        Args:
            prompts: structure name to prompt, in voxel indices of `image`.
            labels: structure name to index (1 or more), for at least the prompted ones.
            templates: studies that show some of the structures too.
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
        chosen = {name: found for name in said if (found := self._showing(name, templates))}
        guides = {}
        if chosen:
            queries = self._network.encode(stack, range(len(stack)), checkpoint=report.part(0, 0.2))
            guides = self._guides(stack, queries, chosen, self._template_masks(chosen))
        interaction = Interaction(
            self._network,
            stack,
            turned,
            self.settings.interaction,
            {name: guides[name] for name in chosen},
            self.settings.match.slices_per_query,
        )
        answers = interaction.run(only_slice, report.part(0.2, 0.95))
        volumes = ((labels[name], self._filled(stack, answers[name], turned[name])) for name in said)
        slices = self._competing(stack, volumes, tidy=False)
        quality = {name: float(np.mean(answers[name].agreements or [1.0])) for name in said}
        types = {name: _values(prompt.types) for name, prompt in said.items()}
        asked = list(dict.fromkeys(template.id for found in chosen.values() for template in found))
        return self._prediction(stack, slices, labels, quality, asked, types)

    # Templates

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
        queries: Mapping[int, Features],
        chosen: Mapping[str, Sequence[Template]],
        masks: Mapping[tuple[str, str], np.ndarray],
    ) -> dict[str, list[Guide]]:
        """For each structure its templates, cut like the query and matched to it."""
        looks = descriptors([queries[index] for index in range(len(stack))])
        cut: dict[str, Callable[[np.ndarray], Guide]] = {}
        for template in {template.id: template for found in chosen.values() for template in found}.values():
            other = Stack.of(template.image, plane=stack.axis)
            features = self._network.encode(other, range(len(other)))
            other_looks = descriptors([features[index] for index in range(len(other))])
            matched = match(stack, other, looks, other_looks, self.settings.match)
            cut[template.id] = _guide_maker(other, features, matched, self._network.size)
        return {name: [cut[t.id](masks[t.id, name]) for t in found] for name, found in chosen.items()}

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

    def _joined(self, parts: Sequence[tuple[Stack, np.ndarray]]) -> np.ndarray:
        """Mean of one structure's logits (N, S, S) from each plane, as slices (N, H, W) of the first plane's stack."""
        first = parts[0][0]
        total = np.zeros(first.array.shape, np.float32)
        for stack, logits in parts:
            total += np.moveaxis(_resized(logits, stack), 0, stack.axis)
        return np.moveaxis(total / len(parts), first.axis, 0)

    def _smoothed(self, stack: Stack, logits: np.ndarray) -> np.ndarray:
        return smooth_along(logits, stack.thickness, self.settings.smooth_mm)

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

    def _competing(self, stack: Stack, volumes: Iterable[tuple[int, np.ndarray]], tidy: bool = True) -> np.ndarray:
        """Label indices (N, H, W): each voxel to the structure with the largest logit above the background's 0."""
        best = np.zeros((len(stack), *stack.slice(0).shape), np.float32)
        slices = np.zeros(best.shape, np.uint16)
        used = []
        for index, logits in volumes:
            wins = logits > best
            slices[wins], best[wins] = index, logits[wins]
            used.append(index)
        for index in used if tidy else ():
            mask = slices == index
            slices[mask & ~without_islands(mask, self.settings.least_island)] = 0
        return slices.astype(np.uint8) if max(used) <= np.iinfo(np.uint8).max else slices

    def _quality(self, queries: Mapping[int, Features], guides: Sequence[Guide], predicted: np.ndarray) -> float:
        guide = guides[0]
        path = guide.match.path
        worth = [q for q in range(len(predicted)) if predicted[q].any() or guide.shown[path[q]]]
        cases = [
            ReverseCase(queries[q], guide.features[path[q]], predicted[q], guide.truth(path[q]))
            for q in spread(worth, self.settings.quality_slices)
        ]
        return reverse_dice(self._network, cases)

    def _prediction(
        self,
        stack: Stack,
        slices: np.ndarray,
        labels: Mapping[str, int],
        quality: Mapping[str, float],
        templates: Sequence[str],
        types: Mapping[str, list[str]],
    ) -> Prediction:
        rounded = {name: round(value, 4) for name, value in quality.items()}
        provenance = {
            "version": PROVENANCE_VERSION,
            "network": self._network.network.config.name,
            "weights": self.weights_hash,
            "templates": list(templates),
            "prompt_types": dict(types),
            "quality": rounded,
        }
        return Prediction(stack.restored(slices), dict(labels), rounded, provenance)


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


def _guide_maker(
    stack: Stack, features: Mapping[int, Features], matched: Any, size: int
) -> Callable[[np.ndarray], Guide]:
    def make(mask: np.ndarray) -> Guide:
        slices = stack.slices_of(mask)
        return Guide(
            features, matched, slices.any(axis=(1, 2)), lambda index: mask_maps(slices[index], size), slices.__getitem__
        )

    return make


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
