"""PromptSeg behind the contract of a model: which templates answered and by which weight, who answers prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib.imaging.images import Image
from lib.imaging.prompts import SEGLAB, Prompt, PromptError
from lib.inference.templates import Template, TemplateError
from lib.networks.checkpoints import CheckpointError
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.promptseg import PromptSegBeside, PromptSegSegmenter
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import GreyNetwork
from tests.samples import TINY_PROMPTSEG

SETTINGS = SegmenterSettings(precision="float32", quality_slices=0, templates_per_query=3)


@pytest.fixture(scope="module")
def prompted() -> SliceSegmenter:
    return SliceSegmenter(GreyNetwork(), settings=SETTINGS)


@pytest.fixture(scope="module")
def segmenter(prompted: SliceSegmenter) -> PromptSegSegmenter:
    """Untrained, with answers that are neither empty nor full."""
    torch.manual_seed(0)
    network = PromptSeg(TINY_PROMPTSEG).eval().requires_grad_(False)
    network.mask_decoder.coarse_head.bias += 0.5
    return PromptSegSegmenter(network, prompted, settings=SETTINGS)


def study(number: int) -> tuple[Image, np.ndarray]:
    """A picture with a bright square."""
    rng = np.random.default_rng(number)
    label = np.zeros((32, 32, 1), np.uint8)
    label[4 + number : 14 + number, 8:20] = 1
    return Image(rng.normal(0, 1, label.shape).astype(np.float32) + 5 * label, np.diag([1.0, 1, 4, 1])), label


def template(number: int, *names: str) -> Template:
    return Template(f"t{number}", *study(number), dict.fromkeys(names or ("square",), 1))


def test_every_template_that_was_asked_has_a_weight_and_the_others_are_named(segmenter):
    image, _ = study(9)
    prediction = segmenter.segment(image, [template(n) for n in range(5)], {"square": 3})
    assert set(np.unique(prediction.mask)) == {0, 3}
    record = prediction.provenance
    assert (record["model"], record["network"]) == ("promptseg", "tiny-promptseg")
    assert record["templates"] == ["t0", "t1", "t2"]
    assert record["templates_left_out"] == ["t3", "t4"]
    assert record["template_weights"]["square"].keys() == {"t0", "t1", "t2"}
    assert sum(record["template_weights"]["square"].values()) == pytest.approx(1, abs=1e-3)


def test_one_template_has_all_the_weight(segmenter):
    record = segmenter.segment(study(9)[0], [template(1)], {"square": 1}).provenance
    assert record["template_weights"] == {"square": {"t1": 1.0}}
    assert "templates_left_out" not in record


def test_templates_in_another_order_give_the_same_mask(segmenter):
    image, templates = study(9)[0], [template(n) for n in range(3)]
    first, second = (segmenter.segment(image, order, {"square": 1}) for order in (templates, templates[::-1]))
    assert (first.mask != second.mask).mean() < 0.01  # sums in another order
    weights = [one.provenance["template_weights"]["square"] for one in (first, second)]
    assert weights[0] == pytest.approx(weights[1], abs=1e-3)


def test_no_template_is_refused(segmenter):
    with pytest.raises(TemplateError, match="save a study with it first"):
        segmenter.segment(study(9)[0], [], {"square": 1})


def test_templates_that_do_not_show_the_structure_are_refused_with_what_they_show(segmenter):
    with pytest.raises(TemplateError, match=r"the templates show \['square'\], got \['liver'\]"):
        segmenter.segment(study(9)[0], [template(0), template(1)], {"liver": 1})


def test_more_slices_than_one_pass_reads_are_read_in_several(prompted):
    torch.manual_seed(0)
    network = PromptSeg(TINY_PROMPTSEG).eval().requires_grad_(False)
    most = TINY_PROMPTSEG.most_templates
    own = PromptSegSegmenter(network, prompted, settings=replace(SETTINGS, templates_per_query=most + 2))
    record = own.segment(study(9)[0], [template(n) for n in range(most + 2)], {"square": 1}).provenance
    assert len(record["templates"]) == most + 2
    assert "templates_left_out" not in record


class OfOneGrey(nn.Module):
    """A PromptSeg that finds what has the mean grey value of all that its prompts show."""

    def __init__(self):
        super().__init__()
        self.config, self.weight = replace(TINY_PROMPTSEG, name="of one grey"), nn.Parameter(torch.ones(1))

    def encode(self, images):
        return (images,)

    def remember(self, templates, maps):
        inside = maps[:, :, 0, SEGLAB] > 0.5
        grey = (templates[0][:, :, 0] * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
        return Greys(grey, torch.full_like(grey, 1 / grey.shape[1]))

    def read(self, query, memory, query_prompts=None):
        return 10 * (0.8 - (query[0] - memory.greys.mean(dim=1)[:, None, None, None]).abs())

    def decode(self, query, template, template_prompts, query_prompts=None):
        return self.read(query, self.remember((template[0][:, None],), template_prompts[:, None]))


@dataclass(frozen=True)
class Greys:
    greys: torch.Tensor
    weights: torch.Tensor


def test_where_all_templates_are_wrong_the_predicted_quality_says_so():
    led_back = Estimator(["reverse"], [0.5], [0.25], [[{"weights": [[1.0]], "bias": [0.0]}]])
    own = PromptSegSegmenter(OfOneGrey(), settings=replace(SETTINGS, quality_slices=6), estimator=led_back)

    def clear(number, by=0):
        label = np.roll(study(number)[1], by, axis=(0, 1))
        grey = 5 * study(number)[1] + np.random.default_rng(number).normal(0, 0.1, label.shape)
        return Template(f"t{number}", Image(grey.astype(np.float32), np.diag([1.0, 1, 4, 1])), label, {"square": 1})

    query = clear(9)
    right, wrong = (
        own.segment(query.image, [clear(n, by) for n in range(3)], {"square": 1}) for by in ((0, 0), (14, 14))
    )
    assert (right.mask == query.label).mean() > 0.98
    assert right.quality["square"] > 0.8
    assert wrong.mask.any()  # something of the grey values that they show is everywhere
    assert wrong.quality["square"] < 0.4


def test_prompts_are_refused_where_nothing_answers_them():
    own = PromptSegSegmenter(OfOneGrey(), settings=SETTINGS)
    with pytest.raises(PromptError, match="promptseg segments without prompts"):
        own.interact(study(3)[0], {"square": Prompt(foreground=((10, 12, 0),))}, {"square": 1})


def test_prompts_are_answered_by_the_model_beside_it(segmenter, prompted):
    image, _ = study(3)
    prompts = {"square": Prompt(foreground=((10, 12, 0),))}
    own, others = (one.interact(image, prompts, {"square": 1}) for one in (segmenter, prompted))
    np.testing.assert_array_equal(own.mask, others.mask)
    assert own.provenance["model"] == "oneprompt"
    shown_by_a_click = Template("t", *study(2)[:1], None, {}, prompts)
    assert segmenter.segment(image, [shown_by_a_click], {"square": 1}).provenance["templates"] == ["t"]


def test_it_segments_only_structures_with_enough_templates(segmenter, prompted):
    beside = PromptSegBeside(prompted, segmenter, least=2)
    image = study(9)[0]
    both = [template(0), template(1, "square", "rare")]
    assert beside.segment(image, [template(0)], {"square": 1}).provenance["model"] == "oneprompt"
    assert "promptseg" not in beside.segment(image, both, {"square": 1}).provenance
    mixed = beside.segment(image, both, {"square": 1, "rare": 2}).provenance
    assert mixed["model"] == "promptseg"
    assert mixed["promptseg"]["structures"] == ["square"]
    assert mixed["promptseg"]["weights"] == segmenter.weights_hash
    assert mixed["weights"] == prompted.weights_hash
    assert mixed["template_weights"].keys() == {"square"}
    assert mixed["prompt_types"].keys() == {"square", "rare"}
    assert beside.capabilities.name == "promptseg"
    assert beside.capabilities.usual_templates == SETTINGS.templates_per_query
    assert beside.fingerprint != PromptSegBeside(prompted, segmenter, least=3).fingerprint


def test_templates_that_are_only_prompted_are_for_the_model_that_reads_prompts(segmenter, prompted):
    beside = PromptSegBeside(prompted, segmenter, least=2)
    clicked = [
        Template(f"c{n}", study(n)[0], None, {}, {"square": Prompt(foreground=((10 + n, 12, 0),))}) for n in range(2)
    ]
    image, labels = study(9)[0], {"square": 1}
    assert beside.segment(image, clicked, labels).provenance["model"] == "oneprompt"
    record = beside.segment(image, [template(0), template(1), *clicked], labels).provenance
    assert record["model"] == "promptseg"
    assert record["template_weights"]["square"].keys() == {"t0", "t1", "c0"}


def test_weights_of_one_prompt_are_refused(tiny_weights: Path, prompted):
    with pytest.raises(CheckpointError, match="architecture 'promptseg', got 'oneprompt'"):
        PromptSegSegmenter.read(tiny_weights, prompted)


def test_it_is_no_one_prompt(promptseg_weights: Path):
    with pytest.raises(CheckpointError, match="architecture 'oneprompt', got 'promptseg'"):
        SliceSegmenter.load(promptseg_weights)
