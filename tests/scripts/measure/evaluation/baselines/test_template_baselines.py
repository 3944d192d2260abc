"""Baselines that segment by templates, on images where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.metrics import dice
from lib.imaging.prompts import PromptType
from lib.inference.slice_network import SliceNetwork
from lib.networks import OnePrompt
from scripts.measure.evaluation.baselines.copying import Copying
from scripts.measure.evaluation.baselines.prototypes import PrototypeMatching
from scripts.measure.evaluation.baselines.registration import Registration
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import TemplateQuestion
from tests.samples import TINY
from tests.scripts.measure.evaluation.samples import case, volume_case

NAMES = {1: "square"}
FLAT = np.diag([-1.0, -1.0, 1.0, 1.0])


def answer(method, query, *templates):
    (found,) = method.answers([TemplateQuestion(query, templates, NAMES)], PromptType.SEGLAB)
    assert found[1].dtype == bool
    assert found[1].shape == query.image.array.shape
    return found[1]


def disk(centre: float, radius: float = 14, shape=(64, 64)) -> Case:
    grid = np.hypot(*(np.indices(shape) - np.array([centre, 32])[:, None, None]))
    label = (grid < radius).astype(np.uint8)
    texture = np.sin(np.indices(shape).sum(axis=0) / 9)
    return Case(f"disks/{centre}", str(centre), Image(100 * label + 5 * texture, FLAT), label)


def prototypes() -> PrototypeMatching:
    torch.manual_seed(0)
    return PrototypeMatching(SliceNetwork(OnePrompt(TINY).eval(), "cpu", precision="float32"), "weights")


def test_the_copy_of_a_template_is_its_own_mask_and_stretches_with_the_image():
    template = case(0)
    assert np.array_equal(answer(Copying(), case(1), template), template.mask(1))
    stretched = answer(Copying(), case(1, (80, 60)), template)
    assert dice(stretched, np.kron(template.mask(1), np.ones((2, 2), bool))) > 0.9


def test_copies_meet_in_one_orientation():
    template = volume_case(0)
    turned = Case(
        "blocks/turned",
        "9",
        Image(template.image.array[::-1], template.image.affine @ np.diag([-1, 1, 1, 1])),
        template.label[::-1],
    )
    assert np.array_equal(answer(Copying(), turned, template), turned.mask(1))


def test_several_copies_are_a_majority():
    templates = [disk(20, 5), disk(40), disk(40)]
    assert np.array_equal(answer(Copying(), disk(30), *templates), templates[1].mask(1))


def test_registration_moves_the_mask_onto_what_moved():
    query, template = disk(36), disk(26, radius=12)
    moved = dice(answer(Registration(), query, template), query.mask(1))
    assert moved > 0.93
    assert moved > dice(answer(Copying(), query, template), query.mask(1)) + 0.1


def test_registration_moves_volumes_in_mm():
    query, template = volume_case(2), volume_case(0)
    moved = dice(answer(Registration(), query, template), query.mask(1))
    assert moved > dice(answer(Copying(), query, template), query.mask(1))


def test_prototypes_find_what_looks_like_the_structure():
    query = disk(44)
    assert dice(answer(prototypes(), query, disk(22)), query.mask(1)) > 0.7


@pytest.mark.parametrize("count", [1, 2])
def test_prototypes_work_on_volumes_and_with_several_templates(count):
    query = volume_case(1)
    found = answer(prototypes(), query, *(volume_case(n) for n in (0, 2)[:count]))
    assert dice(found, query.mask(1)) > 0.3


def test_a_structure_that_no_template_shows_gets_no_answer():
    names = {2: "stripe"}
    for method in (Copying(), prototypes()):
        (found,) = method.answers([TemplateQuestion(disk(30), (disk(40),), names)], PromptType.SEGLAB)
        assert not found
