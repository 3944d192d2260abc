import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.volumes import Stack
from lib.inference.slice_network import SliceNetwork
from lib.quality.augmented_views import AugmentedViews
from tests.lib.fakes import SIZE, GreyNetwork


@pytest.fixture
def network():
    return SliceNetwork(GreyNetwork(), "cpu", precision="float32")


def stack_of(depth=5, noise=0.0):
    mask = np.zeros((SIZE, SIZE, depth), bool)
    mask[8:20, 8:20, 1:4] = True
    grey = np.where(mask, 900.0, 300.0) + noise * np.random.default_rng(0).normal(size=mask.shape)
    stack = Stack.of(Image(grey, np.diag([-1.0, -1.0, -2.0, 1.0])))
    return stack, stack.slices_of(mask)


def test_a_structure_that_stands_out_is_found_in_copies(network):
    assert AugmentedViews(network).dice(*stack_of()) > 0.85


def test_a_structure_that_nothing_tells_apart_is_not(network):
    stack, masks = stack_of()
    hidden = np.roll(masks, 10, axis=2)  # beside what stands out
    assert AugmentedViews(network).dice(stack, hidden) < 0.7


def test_a_copy_moves_picture_and_mask_together_and_is_always_the_same(network):
    stack, masks = stack_of()
    copies = AugmentedViews(network)
    first, other, again = copies.take(stack, [(2, 0), (2, 1), (2, 0)])
    assert first is again
    bright = first.features[0][0].numpy() > 1
    moved = first.mask(masks[2])
    assert 2 * (bright & moved).sum() / (bright.sum() + moved.sum()) > 0.9
    assert not np.array_equal(moved, other.mask(masks[2]))
    np.testing.assert_array_equal(AugmentedViews(network).take(stack, [(2, 0)])[0].mask(masks[2]), moved)


def test_views_are_encoded_once_and_not_kept_without_end(network, monkeypatch):
    stack, masks = stack_of()
    views = AugmentedViews(network)
    views.dice(stack, masks)
    encoded = network.network.encoded
    views.dice(stack, masks)
    views.take(stack, [(1, 0), (2, 0), (3, 0)])
    assert network.network.encoded == encoded
    monkeypatch.setattr("lib.quality.augmented_views.ROOM", 1)
    few = AugmentedViews(network)
    assert len(few.take(stack, [(0, 0), (4, 0)])) == 2
    few.take(stack, [(4, 0)])
    assert network.network.encoded == encoded + 2
    few.take(stack, [(0, 0)])
    assert network.network.encoded == encoded + 3


def test_a_template_without_the_structure_finds_nothing(network):
    stack, masks = stack_of()
    assert AugmentedViews(network).dice(stack, np.zeros_like(masks)) == 0
