"""A segmenter whose network sees slices: by templates (`segment`) or by prompts on the image itself (`interact`).

The unit of work is a study. Its slices are encoded once, whatever the number of structures; each is compared with the
template slices that correspond to it (`lib.inference.matching`, `lib.inference.voting`), all structures go through the
decoder in the same batches, and the logits of the averaged probabilities are brought back to the image's grid, where
structures and background compete.

It may be called from several threads: the network keeps no state, its cache has a lock, and calls do not wait for each
other. Whoever needs an order calls in that order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, PromptError
from lib.imaging.volumes import Stack
from lib.inference.carrying import confirmed_axis
from lib.inference.control import Control
from lib.inference.feature_cache import FeatureCache
from lib.inference.interaction import Answer, Interaction
from lib.inference.probabilities import dice_optimal_threshold
from lib.inference.slice_network import SliceNetwork
from lib.inference.templates import Template
from lib.networks.checkpoints import load_network, weights_hash
from lib.networks.contract import SliceModel
from lib.quality.augmented_views import AugmentedViews
from lib.quality.estimate import estimate_quality, quality_record
from lib.quality.estimator import Estimator
from lib.quality.features import MaskOrigin, measure_features
from lib.segmenters.contract import Capabilities, Prediction, checked_labels
from lib.segmenters.kept_answers import Inquiry, KeptAnswer, KeptAnswers
from lib.segmenters.mask_assembly import certainty_of, compete, joined, label_kind, prompted_mask
from lib.segmenters.provenance import provenance
from lib.segmenters.second_opinion import SecondOpinion
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.template_answers import Shown, TemplateAnswers, ask, choose, resolutions, shown_by

# Which templates answer is part of a mask's own record, and these change no voxel
NOT_OF_FINGERPRINT = ("templates_per_query", "quality_slices", "batch_size", "cache_bytes", "kept_bytes")


class SliceSegmenter:
    """A two-dimensional in-context network, asked about whole images; a `lib.segmenters.contract.Segmenter`.

    Args:
        network: on `device` already, or moved there by the caller.
        device: torch device name.
        settings: switches of the segmentation.
        estimator: weighs what speaks for a mask; by default the shipped one, where it was fitted for these weights:
            without one no quality is predicted.
        name: of the model.
        cache: where what is computed of slices is kept beside what other networks compute; by default one of its own.
    """

    def __init__(
        self,
        network: SliceModel,
        device: str = "cpu",
        settings: SegmenterSettings = SegmenterSettings(),
        estimator: Estimator | None = None,
        name: str = "oneprompt",
        cache: FeatureCache | None = None,
    ) -> None:
        self.settings = settings
        self.weights_hash = weights_hash(network)
        self.fingerprint = self.weights_hash + _changes(settings)
        self.capabilities = Capabilities(
            name,
            dimensions=2,
            most_templates=network.config.most_templates,
            usual_templates=settings.templates_per_query,
        )
        self._network = SliceNetwork(
            network, device, settings.batch_size, settings.precision, settings.cache_bytes, cache
        )
        self._kept = KeptAnswers(settings.kept_bytes)
        self._views = AugmentedViews(self._network)
        self._estimator = estimator or Estimator.valid_for(self.weights_hash)

    @classmethod
    def load(
        cls, weights: Path, device: str = "cpu", settings: SegmenterSettings = SegmenterSettings()
    ) -> SliceSegmenter:
        """One-Prompt from a weights file, with the estimator beside it where it was fitted for these weights.

        Raises:
            CheckpointError, EstimatorError: a file that cannot be used.
        """
        network = load_network(weights, device)
        return cls(network, device, settings, Estimator.valid_for(weights_hash(network), weights))

    @property
    def held(self) -> dict[str, int]:
        """Bytes that are kept of slices (`features`, of a shared cache all) and of interactive answers (`answers`)."""
        return {"features": self._network.held, "answers": self._kept.held}

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
        second: SecondOpinion | None = None,
    ) -> Prediction:
        """See `Segmenter`; a second opinion counts too, on those of the structures that it knows."""
        return self._predicted(self._ask(image, templates, labels, control), labels, control, second)

    def _predicted(
        self, answers: TemplateAnswers, labels: Mapping[str, int], control: Control, second: SecondOpinion | None
    ) -> Prediction:
        """The mask that follows from what the templates answered, with its record."""
        slices = self._slices(answers, labels, second)
        control.advance(0.95)
        quality = self._quality(answers, labels, slices)
        types = {name: own[0].prompt_types(name) for name, own in answers.chosen.items()}
        ids = dict.fromkeys(template.id for own in answers.chosen.values() for template in own)
        return self._prediction(answers.stack.restored(slices), labels, ids, types, quality)

    def masks(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        seconds: Sequence[SecondOpinion | None],
    ) -> list[np.ndarray]:
        """The mask of `segment` with each of some second opinions (None: with none); the templates are asked once.

        Raises:
            TemplateError: no template shows one of the structures.
        """
        answers = self._ask(image, templates, labels, Control())
        return [answers.stack.restored(self._slices(answers, labels, second)) for second in seconds]

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
        """See `Segmenter`.

        In a volume the prompted slices answer and the mask passes outward; a prompt with a previous mask corrects it
        where it disagrees and carries that to the slices around, and so does one that says what an earlier one said and
        more (`kept_answers`). Only prompted structures are in the result.
        """
        return self._interactive(image, prompts, labels, axis, only_slice, control)[0]

    def _interactive(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        axis: int | None = None,
        only_slice: bool = False,
        control: Control = Control(),
    ) -> tuple[Prediction, Stack, KeptAnswer]:
        """The answer to prompts, how the image was cut for it, and what is kept of it."""
        self.capabilities.check_channels(len(image.channels))
        prompts, labels = _prompted(prompts, labels)
        stack = Stack.of(image, axis=confirmed_axis(prompts.values()) if axis is None else axis)
        types = {name: prompt.types for name, prompt in prompts.items()}
        inquiry = Inquiry.of(image.checksum, stack.axis, only_slice, prompts)
        answer = self._kept.get(inquiry)
        if answer is not None:
            mask = answer.label(labels, label_kind(max(labels.values())))
            return self._prediction(mask, labels, [], types, {"quality": dict(answer.quality)}), stack, answer
        if (former := self._kept.before(inquiry)) is not None:
            prompts = {name: prompt.replace(previous=former.mask(name)) for name, prompt in prompts.items()}
        turned = {name: stack.prompt(prompt) for name, prompt in prompts.items()}
        answers = self._answered(stack, turned, only_slice, control.part(0, 0.95))
        mask = prompted_mask(stack, [(labels[name], answers[name], turned[name]) for name in prompts])
        quality = {name: round(float(np.mean(answers[name].agreements or [1.0])), 4) for name in prompts}
        prediction = self._prediction(mask, labels, [], types, {"quality": quality})
        answer = KeptAnswer.of(prediction, answers if len(stack) == 1 else {})
        self._kept.put(inquiry, answer)
        return prediction, stack, answer

    def _answered(
        self, stack: Stack, prompts: Mapping[str, Prompt], only_slice: bool, control: Control
    ) -> dict[str, Answer]:
        """Answers to prompts in canonical orientation, of every resolution that the stack is asked at."""
        networks = resolutions(self._network, stack, self.settings.finer)
        answers: dict[str, Answer] = {}
        for place, network in enumerate(networks):
            within = control.part(place / len(networks), (place + 1) / len(networks))
            own = Interaction(network, stack, prompts, self.settings.interaction).run(only_slice, within)
            answers = {name: answers[name].beside(own[name]) for name in own} if answers else own
        return answers

    def _ask(
        self, image: Image, templates: Sequence[Template], labels: Mapping[str, int], control: Control
    ) -> TemplateAnswers:
        self.capabilities.check_channels(len(image.channels))
        chosen = choose(templates, labels, self.settings.templates_per_query)
        shows = shown_by(chosen, self._prompted_template)
        return ask(self._network, image, chosen, shows, self.settings, control)

    def _prompted_template(self, template: Template, name: str) -> Shown:
        """A template without a painted mask of a structure first answers for itself."""
        prompt = template.prompt_of(name)
        prediction, stack, answer = self._interactive(template.image, {name: prompt}, {name: 1})
        mask = prediction.mask > 0
        if prompt.mask is not None or prompt.box is not None or name not in answer.flat:
            return Shown(mask)
        return Shown(mask, prompt.replace(previous=certainty_of(stack, answer.flat[name])))

    def _slices(self, answers: TemplateAnswers, labels: Mapping[str, int], second: SecondOpinion | None) -> np.ndarray:
        """Label indices (N, H, W) of what the templates answered, and the second opinion on its structures."""

        def logits(place: int, name: str) -> np.ndarray:
            mean = joined(answers.stack, answers.of(place), self.settings.smoothing)
            own = mean - dice_optimal_threshold(mean, self.settings.least_probability)
            if second and name in second.logits:
                own = (1 - second.weight) * own + second.weight * second.on(answers.stack, name)
            return own

        volumes = ((labels[name], logits(place, name)) for place, name in enumerate(answers.chosen))
        return compete(answers.stack, volumes, {labels[name]: least for name, least in answers.least_islands.items()})

    def _quality(self, answers: TemplateAnswers, labels: Mapping[str, int], slices: np.ndarray) -> dict[str, Any]:
        """What is predicted of the mask, as it is recorded."""
        features = {}
        for place, name in enumerate(answers.chosen if self.settings.quality_slices else ()):
            mask, guides = slices == labels[name], answers.guides[name]
            origin = MaskOrigin(answers.stack, answers.queries, guides, answers.of(place), place, answers.tally, mask)
            features[name] = measure_features(self._network, self._views, origin, self.settings.quality_slices)
        qualities = {name: estimate_quality(own, self._estimator) for name, own in features.items()}
        return quality_record(qualities, features)

    def _prediction(
        self,
        mask: np.ndarray,
        labels: Mapping[str, int],
        templates: Any,
        prompt_types: Mapping[str, Any],
        quality: Mapping[str, Any],
    ) -> Prediction:
        record = provenance(
            model=self.capabilities.name,
            network=self._network.network.config.name,
            weights=self.weights_hash,
            templates=templates,
            prompt_types=prompt_types,
            quality=quality,
        )
        return Prediction(mask, dict(labels), quality["quality"], record)


def _prompted(prompts: Mapping[str, Prompt], labels: Mapping[str, int]) -> tuple[dict[str, Prompt], dict[str, int]]:
    """The prompts that hold anything, and the labels of their structures. Raises PromptError."""
    given = {name: prompt for name, prompt in prompts.items() if not prompt.is_empty}
    if not given:
        raise PromptError(f"at least one structure needs a prompt, got none for {list(prompts)}: click, draw or paint")
    if unknown := [name for name in given if name not in labels]:
        raise PromptError(f"prompted structures must be among the labels {list(labels)}, got {unknown}")
    wanted = {name: labels[name] for name in given}
    checked_labels(wanted)
    return given, wanted


def _changes(settings: SegmenterSettings) -> str:
    """What a segmenter's fingerprint has beside its weights' hash: nothing for the default settings."""
    default, own = (dataclasses.asdict(one) for one in (SegmenterSettings(), settings))
    changes = {key: own[key] for key in own if own[key] != default[key] and key not in NOT_OF_FINGERPRINT}
    if not changes:
        return ""
    return "-" + hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]
