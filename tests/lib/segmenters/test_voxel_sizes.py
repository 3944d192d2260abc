"""The whole prediction does not hang on how large a voxel is, only on its proportions."""

import functools

import hypothesis
import hypothesis.strategies as st
import nibabel
import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.pictures import overlay
from lib.imaging.prompts import Prompt
from lib.inference.templates import Template
from lib.networks import OnePrompt
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import GreyNetwork
from tests.samples import TINY, organ_volume

SHAPE = (16, 12, 8)
PROPORTIONS = ((1, 1, 1), (1, 1, 2.5), (1, 4, 1), (0.7, 0.9, 3.1), (3, 1, 1))
ORIGIN = (-3.0, 5.0, 7.0)  # voxels


@functools.cache
def predictors() -> list[SliceSegmenter]:
    """The real network, untrained, and one whose masks are known."""
    torch.manual_seed(0)
    settings = SegmenterSettings(precision="float32", quality_slices=2)
    return [SliceSegmenter(OnePrompt(TINY), "cpu", settings), SliceSegmenter(GreyNetwork(), "cpu", settings)]


def image(seed: int, codes: str, proportions: tuple[float, ...], side: float) -> Image:
    """A volume as it comes from a NIfTI file, which holds 32-bit numbers."""
    array, _ = organ_volume(seed, SHAPE)
    turn = nibabel.orientations.axcodes2ornt(tuple(codes)).astype(int)
    affine = np.zeros((4, 4))
    for axis, (target, direction) in enumerate(turn):
        affine[target, axis] = direction * proportions[axis] * side
    affine[:3, 3], affine[3, 3] = np.multiply(ORIGIN, side), 1
    file = nibabel.Nifti1Image(array, affine.astype(np.float32))
    file.set_sform(affine, 1)
    return Image(np.asarray(file.dataobj), file.header.get_sform())


@functools.cache
def mask(number: int, codes: str, proportions: tuple[float, ...], side: float) -> np.ndarray:
    _, label = organ_volume(1, SHAPE)
    template = Template("t", image(1, codes, proportions, side), label, {"organ": 1})
    prediction = predictors()[number].segment(image(2, codes, proportions, side), [template], {"organ": 1})
    return prediction.mask


@hypothesis.given(
    number=st.sampled_from([0, 1]),
    codes=st.sampled_from(["LPS", "RAS", "PIR", "SAL"]),
    proportions=st.sampled_from(PROPORTIONS),
    side=st.floats(-6, 1).map(lambda power: 10**power),
)
@hypothesis.settings(max_examples=20)
def test_the_same_voxels_give_the_same_mask_at_any_size(number, codes, proportions, side):
    expected = mask(number, codes, proportions, 1.0)
    np.testing.assert_array_equal(mask(number, codes, proportions, side), expected)


@functools.cache
def clicked(number: int, codes: str, proportions: tuple[float, ...], side: float) -> np.ndarray:
    point = tuple(int(index) for index in np.argwhere(organ_volume(2, SHAPE)[1]).mean(axis=0))
    prompt = Prompt(foreground=(point,), background=((0, 0, 0),))
    return predictors()[number].interact(image(2, codes, proportions, side), {"organ": prompt}, {"organ": 1}).mask


@hypothesis.given(
    number=st.sampled_from([0, 1]),
    codes=st.sampled_from(["LPS", "RAS", "PIR"]),
    proportions=st.sampled_from(PROPORTIONS),
    side=st.floats(-6, 1).map(lambda power: 10**power),
)
@hypothesis.settings(max_examples=8)
def test_the_same_click_gives_the_same_mask_at_any_size(number, codes, proportions, side):
    expected = clicked(number, codes, proportions, 1.0)
    np.testing.assert_array_equal(clicked(number, codes, proportions, side), expected)


@pytest.mark.parametrize("proportions", PROPORTIONS)
def test_a_picture_of_a_volume_is_the_same_at_any_size(proportions):
    label = organ_volume(2, SHAPE)[1]
    first, *others = (overlay(image(2, "PIR", proportions, side), label, 64) for side in (1.0, 1e-6, 1e-3, 0.3, 10.0))
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_what_the_network_finds_in_voxels_of_a_nanometre_is_not_smoothed_away():
    found = mask(1, "RAS", (1, 1, 1), 1e-6)
    _, truth = organ_volume(2, SHAPE)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_a_flat_image_gives_the_same_mask_at_any_pixel_size():
    array, label = (volume[:, :, SHAPE[2] // 2] for volume in organ_volume(1, SHAPE))
    found = []
    for side in (1e-6, 1e-3, 1.0, 10.0):
        flat = Image(array, np.diag([side, 2 * side, 1.0, 1.0]))
        template = Template("t", flat, label, {"organ": 1})
        found.append(predictors()[1].segment(flat, [template], {"organ": 1}).mask)
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_an_image_that_is_one_row_is_segmented_by_another_row():
    label = np.zeros(32, np.uint8)
    label[6:10] = 1
    array = label * 900.0 + np.arange(32)
    for shape in ((-1, 1), (1, -1), (-1, 1, 1), (1, 1, -1)):
        row = Image(array.reshape(shape), np.eye(4))
        template = Template("t", row, label.reshape(shape), {"organ": 1})
        found = predictors()[1].segment(row, [template], {"organ": 1}).mask
        assert found.shape == row.array.shape
        assert 2 * (found.ravel() & label).sum() / (found.sum() + label.sum()) > 0.7
