"""The evaluation asks the product's own segmenter, and scores what that answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lib.imaging.prompts import Prompt, PromptType
from lib.networks import OnePrompt
from lib.networks.promptseg import PromptSeg
from lib.segmenters.settings import SegmenterSettings
from scripts.measure.evaluation.methods import TemplateQuestion
from scripts.measure.evaluation.segmenters import SegmenterMethod, one_prompt, prompt_seg
from tests.samples import TINY, TINY_PROMPTSEG
from tests.scripts.measure.evaluation.samples import case, square, volume_case

NAMES = {1: "square"}


@pytest.fixture(scope="module")
def network() -> OnePrompt:
    """Untrained, but its answers are neither empty nor full."""
    torch.manual_seed(3)
    network = OnePrompt(TINY).eval().requires_grad_(False)
    images = torch.randn(2, 1, 32, 32)
    maps = torch.zeros(1, 2, 5, 32, 32)
    maps[:, 0, 3, 8:20, 8:20] = 1
    maps[:, 1, 3] = 1 - maps[:, 0, 3]
    network.mask_decoder.head.bias -= network(images, images, maps).median()
    return network


@pytest.fixture
def ours(network) -> SegmenterMethod:
    return one_prompt(network, settings=SegmenterSettings(precision="float32"))


@pytest.mark.parametrize("kind", list(PromptType))
@pytest.mark.parametrize("count", [1, 6])
def test_images_by_templates_are_answered_by_the_segmenter_from_all_of_them(kind, count, ours):
    queries = [case(0), case(1, (36, 52)), case(2, (16, 21))]
    templates = tuple(case(n) for n in range(10, 10 + count))
    answers = list(ours.answers([TemplateQuestion(query, templates, NAMES) for query in queries], kind))
    for query, answer in zip(queries, answers, strict=True):
        shown = [template.template(NAMES, kind, seed=0) for template in templates]
        expected = ours.segmenter.segment(query.image, shown, {"square": 1})
        assert 0 < expected.mask.sum() < expected.mask.size
        assert len(expected.provenance["templates"]) == count
        assert np.array_equal(answer[1], expected.mask == 1)


def test_a_click_and_its_answer_reach_the_segmenter(ours):
    query = case(0)
    first = Prompt(foreground=((10, 8),))
    [mask] = ours.masks([query], [first])
    assert np.array_equal(mask, ours.segmenter.interact(query.image, {"square": first}, {"square": 1}).mask == 1)
    second = first.replace(background=((35, 25),), previous=mask)
    [corrected] = ours.masks([query], [second])
    assert np.array_equal(corrected, ours.segmenter.interact(query.image, {"square": second}, {"square": 1}).mask == 1)


def test_a_method_never_looks_at_the_query_s_label(ours):
    query, template = case(0), case(5)
    blind = dataclasses.replace(query, label=np.zeros_like(query.label))
    seeing, unseeing = (
        next(ours.answers([TemplateQuestion(one, (template,), NAMES)], PromptType.SEGLAB))[1] for one in (query, blind)
    )
    assert np.array_equal(seeing, unseeing)


def test_volumes_go_through_the_segmenter_too(ours):
    query, template = volume_case(0), volume_case(2)
    (answer,) = ours.answers([TemplateQuestion(query, (template,), {1: "block"})], PromptType.SEGLAB)
    shown = template.template({1: "block"}, PromptType.SEGLAB, 0)
    expected = ours.segmenter.segment(query.image, [shown], {"block": 1}).mask
    assert np.array_equal(answer[1], expected == 1)
    (mask,) = ours.masks([query], [Prompt(foreground=((5, 8, 3),))])
    assert mask.shape == query.image.array.shape


def test_finished_work_is_told_apart_by_the_segmenter_s_fingerprint(network, ours):
    assert ours.fingerprint == ours.segmenter.fingerprint
    assert one_prompt(network, settings=SegmenterSettings(least_probability=0.5)).fingerprint != ours.fingerprint


def test_promptseg_is_asked_beside_one_prompt_with_all_templates_in_one_pass(ours):
    torch.manual_seed(0)
    method = prompt_seg(
        PromptSeg(TINY_PROMPTSEG).eval(), ours.segmenter, settings=SegmenterSettings(precision="float32")
    )
    question = TemplateQuestion(case(0), tuple(case(n) for n in range(10, 13)), NAMES)
    (answer,) = method.answers([question], PromptType.SEGLAB)
    shown = [one.template(NAMES, PromptType.SEGLAB, 0) for one in question.templates]
    expected = method.segmenter.segment(question.query.image, shown, {"square": 1})
    assert method.name == "PromptSeg"
    assert np.array_equal(answer[1], expected.mask == 1)
    assert expected.provenance["templates"] == [one.id for one in shown]


def test_one_wrong_template_shows_another_place_and_the_others_stay(network):
    asked = []
    method = one_prompt(network, one_wrong=True)
    real = method.segmenter.segment
    method.segmenter.segment = lambda image, templates, labels: (
        asked.append(templates) or real(image, templates, labels)
    )
    cases = tuple(case(n) for n in range(10, 13))
    for count in (3, 2):
        list(method.answers([TemplateQuestion(case(0), cases[:count], NAMES)], PromptType.SEGLAB))
    wrong = [[not np.array_equal(one.label, square(10 + n)[1]) for n, one in enumerate(shown)] for shown in asked]
    assert wrong == [[True, False, False], [False, False]]
    assert asked[0][0].label.sum() == cases[0].label.sum()
    assert method.name == "One-Prompt (one wrong)"
