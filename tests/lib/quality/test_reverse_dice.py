import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.metrics import pooled_dice
from lib.imaging.transforms import resize_mask
from lib.imaging.volumes import Stack
from lib.inference.slice_network import SliceNetwork
from lib.quality.reverse_dice import ReverseCase, reverse_answers, spread
from tests.lib.fakes import SIZE, GreyNetwork


def reverse_dice(network, cases):
    """Of the templates' true masks and what the predicted masks lead to."""
    truths = [resize_mask(case.truth, network.size) >= 0.5 for case in cases]
    return pooled_dice(truths, reverse_answers(network, cases))


def encoded(network, mask):
    image = Image(np.where(mask, 900, 100), np.diag([-1.0, -1.0, 1.0, 1.0]))  # as stacks lie
    return network.encode(Stack.of(image), [0])[0]


def square(i=8, j=8, side=8):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[i : i + side, j : j + side] = True
    return mask


def case(network, predicted, query=None, truth=None):
    query, truth = square(16) if query is None else query, square() if truth is None else truth
    return ReverseCase(encoded(network, query), encoded(network, truth), predicted, truth)


@pytest.fixture
def network():
    return SliceNetwork(GreyNetwork(), "cpu", precision="float32")


def test_right_mask_leads_back_to_the_truth(network):
    assert reverse_dice(network, [case(network, square(16))]) == pytest.approx(1)


def test_wrong_mask_leads_elsewhere(network):
    assert reverse_dice(network, [case(network, square(0, 24, 4))]) == 0


def test_empty_mask_has_no_quality_and_asks_nothing(network):
    assert reverse_dice(network, [case(network, np.zeros((SIZE, SIZE), bool))]) == 0
    assert network.network.decoded == 0


def test_missed_slice_lowers_the_quality_of_the_others(network):
    found, missed = case(network, square(16)), case(network, np.zeros((SIZE, SIZE), bool))
    assert reverse_dice(network, [found, missed]) == pytest.approx(2 / 3)


def test_no_case_has_no_quality(network):
    assert reverse_dice(network, []) == 0


def test_spread_takes_the_middle_of_each_share_and_never_the_ends():
    assert spread([3, 5, 7], 6) == [3, 5, 7]
    assert spread(range(100), 5) == [10, 30, 50, 70, 90]
    assert spread(range(7), 1) == [3]
