import dataclasses

import numpy as np
import pytest

from lib.imaging.images import Image
from lib.inference.templates import Template
from lib.quality.features import FEATURES
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import SIZE, GreyNetwork

SETTINGS = SegmenterSettings(smoothing=0.0, least_island=0.0, precision="float32")
DEPTH = 8


def study(shift=0, noise=0.0, brightness=900, flat=False):
    """An image with a bright block, and its mask."""
    mask = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    mask[8 + shift : 18 + shift, 8:18, 2:6] = 1
    grey = np.where(mask, brightness, 300.0) + noise * np.random.default_rng(0).normal(size=mask.shape)
    affine = np.diag([-1.0, -1.0, -2.0, 1.0])
    return (Image(grey[..., 4], affine), mask[..., 4]) if flat else (Image(grey, affine), mask)


def template(id="t", **how):
    image, mask = study(**how)
    return Template(id, image, mask, {"organ": 1})


def evidence(image, *templates, **changes):
    tool = SliceSegmenter(GreyNetwork(), "cpu", dataclasses.replace(SETTINGS, **changes))
    return tool.segment(image, templates or [template()], {"organ": 1}).provenance["evidence"]["organ"]


@pytest.mark.parametrize("flat", [False, True])
def test_every_number_has_a_name_and_is_finite(flat):
    found = evidence(study(2, flat=flat)[0], template(flat=flat), template("other", shift=1, flat=flat))
    assert set(found) <= set(FEATURES)
    assert set(FEATURES) - set(found) <= {"planes"}
    assert np.isfinite(list(found.values())).all()


def test_a_mask_that_is_right_has_everything_speak_for_it():
    found = evidence(study(1)[0])
    for name in ("reverse", "again", "opinions"):
        assert found[name] > 0.85, name
    assert found["votes"] > 0.75  # beside the ends, some template slices are beyond them
    assert abs(found["volume"]) < 0.1
    assert found["expected"] > 0.8


def test_a_larger_organ_elsewhere_at_the_border_shows_in_its_shape():
    image, _ = study()
    grown = np.full(image.array.shape, 300.0)
    grown[12:, 12:, :] = 900
    found = evidence(Image(grown, image.affine))
    assert found["volume"] > 1
    assert found["contact"] > 0.2
    assert found["place"] > evidence(study(1)[0])["place"] + 0.1


def test_nothing_found_leaves_only_what_the_templates_say():
    found = evidence(Image(np.random.default_rng(0).normal(size=(SIZE, SIZE, DEPTH)) * 0.01, study()[0].affine))
    if "size" not in found:
        assert found["expected"] == 0
    assert found["templates"] == 0


def test_templates_that_differ_agree_less():
    image, _ = study()
    inverted = np.where(study()[1], 100.0, 300.0)
    other = Template("dark", Image(inverted, image.affine), study()[1], {"organ": 1})
    alike = evidence(image, template(), template("same", shift=1))
    apart = evidence(image, template(), other)
    assert apart["votes"] < alike["votes"]


def test_planes_are_compared_where_there_are_three():
    mask = np.zeros((SIZE, SIZE, SIZE), np.uint8)
    mask[8:18, 8:18, 8:18] = 1
    image = Image(np.where(mask, 900.0, 300.0), np.diag([-1.0, -1.0, -1.0, 1.0]))
    found = evidence(image, Template("t", image, mask, {"organ": 1}))
    assert found["planes"] > 0.85


def test_without_slices_to_ask_nothing_is_claimed():
    tool = SliceSegmenter(GreyNetwork(), "cpu", dataclasses.replace(SETTINGS, quality_slices=0))
    prediction = tool.segment(study()[0], [template()], {"organ": 1})
    assert prediction.quality == {}


def test_copies_of_a_template_are_made_once():
    network = GreyNetwork()
    tool = SliceSegmenter(network, "cpu", SETTINGS)
    tool.segment(study(1)[0], [template()], {"organ": 1})
    network.encoded = 0
    tool.segment(study(2)[0], [template()], {"organ": 1})
    assert network.encoded <= DEPTH + 2  # the new study's slices, hardly anything of the template's
