"""Many questions at once give what the predictor gives for each."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, PromptType
from lib.inference.slice_network import SliceNetwork
from lib.networks import OnePrompt
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Asked
from scripts.measure.evaluation.one_prompt import OnePromptImages, OnePromptVolumes
from tests.lib.fakes import SIZE, GreyNetwork
from tests.samples import TINY
from tests.scripts.measure.evaluation.samples import case, volume_case

NAMES = {1: "square"}
SETTINGS = SegmenterSettings(templates_per_query=16, precision="float32")


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
def ours(network) -> OnePromptImages:
    return OnePromptImages(SliceNetwork(network, "cpu", batch_size=32, precision="float32"), "weights")


@pytest.fixture
def predictor(network) -> SliceSegmenter:
    return SliceSegmenter(network, settings=SETTINGS)


def is_telling(mask: np.ndarray) -> bool:
    return 0 < mask.sum() < mask.size


@pytest.mark.parametrize("kind", list(PromptType))
@pytest.mark.parametrize("count", [1, 4])
def test_images_by_templates_are_answered_as_by_the_predictor(kind, count, ours, predictor):
    queries = [case(0), case(1, (36, 52)), case(2, (16, 21))]
    templates = tuple(case(n) for n in range(10, 10 + count))
    answers = list(ours.answers([Asked(query, templates, NAMES) for query in queries], kind))
    for query, answer in zip(queries, answers, strict=True):
        shown = [template.template(NAMES, kind, seed=0) for template in templates]
        expected = predictor.segment(query.image, shown, {"square": 1}).mask
        assert is_telling(expected)
        assert np.array_equal(answer[1], expected == 1)


def test_small_parts_stay_only_where_a_template_shows_them_too():
    def bright(*squares):
        label = np.zeros((SIZE, SIZE), np.uint8)
        for i, j, side in squares:
            label[i : i + side, j : j + side] = 1
        return Case(repr(squares), repr(squares), Image(500.0 + 400 * label, np.diag([-1.0, -1, 1, 1])), label)

    grey = OnePromptImages(SliceNetwork(GreyNetwork(), "cpu", precision="float32"), "grey")
    query, whole, scattered = bright((4, 4, 10), (24, 24, 3)), bright((8, 8, 10)), bright((8, 8, 10), (2, 26, 2))
    for template, expected in ((whole, 100), (scattered, 109)):
        answer = next(grey.answers([Asked(query, (template,), NAMES)], PromptType.SEGLAB))[1]
        assert answer.sum() == expected
        shown = [template.template(NAMES, PromptType.SEGLAB, 0)]
        predicted = SliceSegmenter(GreyNetwork(), settings=SETTINGS).segment(query.image, shown, {"square": 1}).mask
        assert np.array_equal(answer, predicted == 1)


def test_clicks_on_images_are_answered_as_by_the_predictor(ours, predictor):
    first = Prompt(foreground=((10, 8),))
    cases, prompts = [case(0), case(1)], [first, first.replace(foreground=((20, 10), (12, 9)))]
    for _ in range(2):
        masks = ours.masks(cases, prompts)
        for one, prompt, mask in zip(cases, prompts, masks, strict=True):
            expected = predictor.interact(one.image, {"square": prompt}, {"square": 1}).mask
            assert is_telling(expected)
            assert np.array_equal(mask, expected == 1)
        prompts = [p.replace(background=((35, 25),), previous=mask) for p, mask in zip(prompts, masks, strict=True)]


def test_a_pair_is_asked_once_however_many_groups_it_is_in(ours, monkeypatch):
    asked = []
    answers = ours.network.answers
    monkeypatch.setattr(ours.network, "answers", lambda questions: answers([asked.append(1) or q for q in questions]))
    query, templates = case(0), tuple(case(n) for n in range(10, 14))
    groups = [*((template,) for template in templates), templates]
    assert len(list(ours.answers([Asked(query, group, NAMES) for group in groups], PromptType.SEGLAB))) == 5
    assert len(asked) == 4


def test_a_method_never_looks_at_the_query_s_label(ours):
    query, template = case(0), case(5)
    blind = dataclasses.replace(query, label=np.zeros_like(query.label))
    seeing, unseeing = (
        next(ours.answers([Asked(one, (template,), NAMES)], PromptType.SEGLAB))[1] for one in (query, blind)
    )
    assert np.array_equal(seeing, unseeing)


def test_volumes_go_through_the_predictor(network):
    method = OnePromptVolumes(network, "weights")
    query, template = volume_case(0), volume_case(2)
    (answer,) = method.answers([Asked(query, (template,), {1: "block"})], PromptType.SEGLAB)
    shown = template.template({1: "block"}, PromptType.SEGLAB, 0)
    expected = method.predictor.segment(query.image, [shown], {"block": 1}).mask
    assert np.array_equal(answer[1], expected == 1)
    (mask,) = method.masks([query], [Prompt(foreground=((5, 8, 3),))])
    assert mask.shape == query.image.array.shape
