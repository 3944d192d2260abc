"""PromptSeg as a segmentation model: all templates of a structure in one pass, each by its weight.

What templates show as a prompt alone is answered by One-Prompt first, and so are prompts on the image itself: PromptSeg
is given masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.inference.feature_cache import FeatureCache
from lib.inference.templates import Template
from lib.inference.voting import shown_around
from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimate import quality_record
from lib.quality.estimator import Estimator
from lib.segmenters.beside import Beside
from lib.segmenters.contract import Capabilities, Prediction, Segmenter
from lib.segmenters.fingerprints import JOIN
from lib.segmenters.registry import PROMPTSEG_MODEL
from lib.segmenters.second_opinion import SecondOpinion
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from lib.segmenters.template_answers import Shown, TemplateAnswers

SHIPPED_PROMPTSEG = SHIPPED_WEIGHTS.with_name("promptseg_small.safetensors")
# The hashes of PromptSeg's weights and of One-Prompt's, to the templates of a structure from which on PromptSeg was
# better in one run of scripts.evaluate (docs/promptseg.md, "Measured so far"). Of other pairs nothing is known here; a
# One-Prompt that was fine-tuned on the list brings a decision of its own (`lib.finetuning.list_promptseg`).
BETTER_FROM: Mapping[tuple[str, str], int] = {("6fdb0f069b8a", "29b9e92ed5bb"): 2}
# Templates of a structure where nobody says how many. On `eval` eight have 2.1 Dice more than four for 1.2 times the
# time, and every template more is one more by which a correction makes masks out of date.
TEMPLATES = 8
WEIGHED_SLICES = 6  # of the mask, on which the templates' weights are measured
BY_STRUCTURE = ("prompt_types", *quality_record({}, {}))  # what a mask's record says of each structure
Weights = dict[str, dict[str, float]]  # structure to template id to weight


class PromptSegSegmenter(SliceSegmenter):
    """A `lib.segmenters.contract.Segmenter`.

    Args:
        network: on `device` already.
        prompted: answers prompts, on templates and on the image itself; None: they are refused.
        device, settings, estimator, cache: see `SliceSegmenter`.
    """

    def __init__(
        self,
        network: PromptSeg,
        prompted: Segmenter | None = None,
        device: str = "cpu",
        settings: SegmenterSettings = SegmenterSettings(),
        estimator: Estimator | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        super().__init__(network, device, settings, estimator, PROMPTSEG_MODEL.name, cache)
        self._prompted = prompted
        if prompted is None:
            self.capabilities = replace(self.capabilities, prompt_types=frozenset())
        else:
            self.fingerprint = JOIN.join((self.fingerprint, prompted.fingerprint))

    @classmethod
    def read(
        cls,
        weights: Path,
        prompted: Segmenter,
        device: str = "cpu",
        settings: SegmenterSettings = SegmenterSettings(),
        cache: FeatureCache | None = None,
    ) -> PromptSegSegmenter:
        """From a weights file. Raises CheckpointError where it holds another network, EstimatorError."""
        network = load_network(weights, device, PromptSeg)
        return cls(network, prompted, device, settings, Estimator.valid_for(weights_hash(network), weights), cache)

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
        second: SecondOpinion | None = None,
    ) -> Prediction:
        """See `Segmenter`.

        The provenance says how much each template counted (`template_weights`), on some slices of the mask, and which
        templates were left out because there are more than are asked, the first ones given.
        """
        answers = self._ask(image, templates, labels, control)
        prediction = self._predicted(answers, labels, control, second)
        record = {**prediction.provenance, "template_weights": self._template_weights(answers, prediction)}
        known = set(record["templates"])
        if left_out := [one.id for one in templates if one.id not in known and set(one.structures) & set(labels)]:
            record["templates_left_out"] = left_out
        return replace(prediction, provenance=record)

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
        """See `Segmenter`: what answers prompts. Raises PromptError where nothing does."""
        self.capabilities.check_prompts(prompts)
        assert self._prompted is not None  # or no prompt types were taken
        return self._prompted.interact(image, prompts, labels, axis=axis, only_slice=only_slice, control=control)

    def _prompted_template(self, template: Template, name: str) -> Shown:
        """What answers prompts makes a mask of a template's: PromptSeg is given masks."""
        return Shown(self.interact(template.image, {name: template.prompt_of(name)}, {name: 1}).mask > 0)

    def _template_weights(self, answers: TemplateAnswers, prediction: Prediction) -> Weights:
        """Of each structure that was found, its templates' weights, whose sum is 1."""
        slices, by_structure = answers.stack.slices_of(prediction.mask), {}
        for name, templates in answers.chosen.items():
            shown = np.flatnonzero((slices == prediction.labels[name]).any(axis=(1, 2)))
            places = shown[np.linspace(0, len(shown) - 1, min(len(shown), WEIGHED_SLICES)).astype(int)]
            total = np.zeros(len(templates))
            for place in places:
                for owners, weights in self._weights_on(answers, name, int(place)):
                    np.add.at(total, owners, weights)
            if total.any():
                own = zip(templates, total / total.sum(), strict=True)
                by_structure[name] = {template.id: round(float(weight), 4) for template, weight in own}
        return by_structure

    def _weights_on(self, answers: TemplateAnswers, name: str, place: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each group of template slices that answered together about a slice: their templates, their weights."""
        guides, most = answers.guides[name], self._network.most_templates
        shown = shown_around(guides, place, answers.slices_per_query)
        for start in range(0, len(shown), most):
            group = shown[start : start + most]
            weights = self._network.weights([guide.slice(index) for guide, index in group])
            yield np.array([guides.index(guide) for guide, _ in group]), weights


class PromptSegBeside(Beside):
    """PromptSeg for structures that enough templates show by a mask, and another segmenter for the rest.

    One-Prompt reads prompts better than PromptSeg reads the masks that they lead to (docs/promptseg.md).

    Args:
        other: answers by templates and prompts.
        promptseg: has learnt to read several templates.
        least: templates with a painted mask of a structure from which on PromptSeg segments it, 1 or more.
    """

    model = PROMPTSEG_MODEL

    def __init__(self, other: Segmenter, promptseg: PromptSegSegmenter, least: int) -> None:
        super().__init__(other, f"{promptseg.fingerprint}-{least}")
        self.promptseg, self.least = promptseg, least

    @property
    def capabilities(self) -> Capabilities:
        """Those of what answers prompts, with the templates that PromptSeg asks."""
        return replace(super().capabilities, usual_templates=self.promptseg.capabilities.usual_templates)

    def segment(
        self, image: Image, templates: Sequence[Template], labels: Mapping[str, int], *, control: Control = Control()
    ) -> Prediction:
        """See `Segmenter`."""
        counts = {name: sum(name in one.painted for one in templates) for name in labels}
        known = {name: index for name, index in labels.items() if counts[name] >= self.least}
        rest = {name: index for name, index in labels.items() if name not in known}
        if not known:
            return self.other.segment(image, templates, labels, control=control)
        own = self.promptseg.segment(image, templates, known, control=control.part(0, 0.5 if rest else 1))
        if not rest:
            return own
        answer = self.other.segment(image, templates, rest, control=control.part(0.5, 1))
        kind = np.promote_types(own.mask.dtype, answer.mask.dtype)
        mask = np.where(own.mask > 0, own.mask, answer.mask).astype(kind)
        used = {key: own.provenance[key] for key in ("network", "weights", "templates")}
        record = {
            **answer.provenance,
            **{key: {**answer.provenance.get(key, {}), **own.provenance[key]} for key in BY_STRUCTURE},
            "model": self.model.name,
            "templates": list(dict.fromkeys([*own.provenance["templates"], *answer.provenance.get("templates", ())])),
            "template_weights": own.provenance["template_weights"],
            "promptseg": {**used, "structures": sorted(known)},
        }
        return Prediction(mask, dict(labels), {**answer.quality, **own.quality}, record)


def better_beside(one_prompt: str) -> bool:
    """Whether a PromptSeg was better from some number of templates on than the One-Prompt whose weights have this
    hash."""
    return any(one_prompt == other for _, other in BETTER_FROM)


def least_templates(weights: tuple[str, str], least: int | None = None) -> int:
    """Templates of a structure from which on PromptSeg segments it; 0: never. See `segmenter_of_list`."""
    return BETTER_FROM.get(weights, 0) if least is None else least


def segmenter_of_list(
    other: Segmenter, promptseg: PromptSegSegmenter, weights: tuple[str, str], least: int | None = None
) -> Segmenter:
    """What segments a study list by templates.

    Args:
        other: answers by templates and prompts.
        promptseg: may segment structures that enough templates show.
        weights: the hashes of PromptSeg's weights and of the other's, for `BETTER_FROM`; of weights that were
            fine-tuned from others and found better, the others' hash may stand.
        least: templates from which on PromptSeg segments; 0: never; None: as `BETTER_FROM` has it.
    """
    least = least_templates(weights, least)
    return PromptSegBeside(other, promptseg, least) if least else other
