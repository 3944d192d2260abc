"""One-Prompt under evaluation: images in large batches, volumes through the predictor.

A list of images asks thousands of small questions, and one by one each would wait for the next. `OnePromptImages`
therefore takes the segmenter's steps for a 2-D image (`lib.segmenters.slice_segmenter`), with one structure asked for,
over many questions at once; a test holds its masks against those of `SliceSegmenter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from lib.imaging.prompts import Prompt, PromptType, rasterise
from lib.imaging.transforms import resize_logits
from lib.imaging.volumes import remove_small_components, smallest_part
from lib.inference.interaction import own_answers
from lib.inference.probabilities import dice_optimal_threshold, mean_logits
from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.inference.voting import ABSENT_LOGIT
from lib.networks import Features, OnePrompt
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, Asked

NAME = "One-Prompt"
EVERY_PROMPT = (PromptType.SEGLAB, PromptType.BBOX, PromptType.DOODLE, PromptType.CLICK)


class OnePromptImages:
    """Questions about 2-D images; a `TemplateMethod` and a `ClickMethod`.

    Args:
        network: with batches and cache of its own.
        seed: of the prompts on templates.
        settings: the predictor's, of which a 2-D image meets the line that is cut at and the removal of islands.
    """

    name = NAME
    prompts: tuple[PromptType, ...] = EVERY_PROMPT
    most_templates = 1000

    def __init__(
        self,
        network: SliceNetwork,
        fingerprint: str,
        seed: int = 0,
        settings: SegmenterSettings = SegmenterSettings(),
    ) -> None:
        self.network, self.fingerprint, self.seed, self.settings = network, fingerprint, seed, settings

    def answers(self, asked: Sequence[Asked], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`. Every pair of a template and a query is asked once, however many groups it is in."""
        pairs = dict.fromkeys(
            (value, template, one.query) for one in asked for value in one.names for template in one.templates
        )
        names = {value: name for one in asked for value, name in one.names.items()}
        shown = self._template_masks(dict.fromkeys((value, template) for value, template, _ in pairs), names, kind)
        logits = self._logits(pairs, shown)
        parts = {key: smallest_part(mask) for key, mask in shown.items()}
        for one in asked:
            answer = {}
            for value in one.names:
                mean = mean_logits([logits[value, template, one.query] for template in one.templates])
                resized = _resized(mean, one.query)
                found = resized > dice_optimal_threshold(resized, self.settings.least_probability)
                least = self.settings.least_island * min(parts[value, template] for template in one.templates)
                answer[value] = self._restored(remove_small_components(found, least), one.query)
            yield answer

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `ClickMethod`: each query is its own template."""
        asked = []
        for case, prompt in zip(cases, prompts, strict=True):
            turned = case.stack.prompt(_refining(prompt))
            flat = turned.on_slice(case.stack.axis, 0)
            asked.append((self._features(case), rasterise(flat, case.stack.slice(0).shape, self.network.size)))
        masks = []
        for case, prompt, logits in zip(cases, prompts, own_answers(self.network, asked), strict=True):
            mask = self._restored(_resized(logits, case) > 0, case)
            masks.append(mask & _inside_box(prompt, mask.shape))
        return masks

    def _template_masks(
        self, templates: Iterable[tuple[int, Case]], names: Mapping[int, str], kind: PromptType
    ) -> dict[tuple[int, Case], np.ndarray]:
        """What each template says of a structure: its mask, or what its prompt gives on the template itself."""
        templates = list(templates)
        if kind is PromptType.SEGLAB:
            return {(value, case): case.mask(value) for value, case in templates}
        prompts = [case.template({v: names[v]}, kind, self.seed).prompts[names[v]] for v, case in templates]
        return dict(zip(templates, self.masks([case for _, case in templates], prompts), strict=True))

    def _logits(
        self, pairs: Iterable[tuple[int, Case, Case]], shown: Mapping[tuple[int, Case], np.ndarray]
    ) -> dict[tuple[int, Case, Case], np.ndarray]:
        """(structure, template, query) to logits (S, S); a template that shows nothing finds nothing."""
        size = self.network.size
        pairs = list(pairs)
        maps = {
            (value, case): mask_maps(case.stack.slices_of(mask)[0], size)
            for (value, case), mask in shown.items()
            if mask.any()
        }
        asked = [pair for pair in pairs if pair[:2] in maps]
        questions = (Question(self._features(q), self._features(t), maps[value, t]) for value, t, q in asked)
        found = dict(zip(asked, self.network.answers(questions), strict=True))
        nothing = np.full((size, size), ABSENT_LOGIT, np.float32)
        return {pair: found.get(pair, nothing) for pair in pairs}

    def _features(self, case: Case) -> Features:
        return self.network.encode(case.stack, [0])[0]

    def _restored(self, mask: np.ndarray, case: Case) -> np.ndarray:
        return case.stack.restored(mask[None])


class OnePromptVolumes:
    """Questions about volumes, each through the product's `SliceSegmenter`; a `TemplateMethod` and a `ClickMethod`.

    Args:
        settings: the predictor's, but for the number of templates, which is the question's.
    """

    name = NAME
    prompts: tuple[PromptType, ...] = EVERY_PROMPT
    most_templates = 1000

    def __init__(
        self,
        network: OnePrompt,
        fingerprint: str,
        device: str = "cpu",
        seed: int = 0,
        settings: SegmenterSettings = SegmenterSettings(batch_size=32),
    ) -> None:
        settings = replace(
            settings,
            templates_per_query=self.most_templates,
            quality_slices=0,
            cache_bytes=max(2**30, settings.cache_bytes),
        )
        self.predictor, self.fingerprint, self.seed = SliceSegmenter(network, device, settings), fingerprint, seed

    def answers(self, asked: Sequence[Asked], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`. All structures that the templates show compete in one prediction."""
        for one in asked:
            templates = [case.template(one.names, kind, self.seed) for case in one.templates]
            shown = {name for template in templates for name in template.structures}
            labels = {name: value for value, name in one.names.items() if name in shown}
            mask = self.predictor.segment(one.query.image, templates, labels).mask
            yield {value: mask == value for value in labels.values()}

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `ClickMethod`; slices are those along `Case.axis`."""
        return [
            self.predictor.interact(case.image, {NAME: prompt}, {NAME: 1}, axis=case.axis).mask > 0
            for case, prompt in zip(cases, prompts, strict=True)
        ]


def _refining(prompt: Prompt) -> Prompt:
    """An empty answer is nothing to refine."""
    return prompt if prompt.previous is None or prompt.previous.any() else prompt.replace(previous=None)


def _resized(logits: np.ndarray, case: Case) -> np.ndarray:
    """(S, S) to the (H, W) of the case's slice."""
    return resize_logits(torch.from_numpy(logits)[None, None], case.stack.slice(0).shape)[0, 0].numpy()


def _inside_box(prompt: Prompt, shape: Sequence[int]) -> np.ndarray:
    """Bool array: where a structure may be, which is everywhere where no box was drawn."""
    inside = np.ones(shape, bool)
    if prompt.box is not None:
        i0, i1, j0, j1 = prompt.box
        inside[:] = False
        inside[i0:i1, j0:j1] = True
    return inside
