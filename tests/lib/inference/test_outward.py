"""How far a mask passes through a volume: when it is led back, and where it ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import SEGLAB
from lib.imaging.volumes import Stack
from lib.inference.outward import SURE, UNCHECKED, Front, OutwardSettings, pass_outward
from lib.inference.slice_network import SliceNetwork
from tests.lib.fakes import SIZE, GreyNetwork

INSIDE = np.zeros((SIZE, SIZE), bool)
INSIDE[8:20, 8:20] = True
YES = np.where(INSIDE, 5.0, -5.0).astype(np.float32)


def test_a_mask_is_led_back_at_once_and_then_every_few_slices():
    front = Front("organ", 10, INSIDE, 1, 40)
    front.move(YES)
    assert [arrival.index for arrival in front.due] == [11]
    front.accept(SURE)
    for _ in range(UNCHECKED - 1):
        front.move(YES)
        assert not front.due
    front.move(YES)
    assert [arrival.index for arrival in front.due] == [11 + UNCHECKED]
    front.accept(SURE - 0.01)
    front.move(YES)
    assert front.due, "it led back badly, so the next slice is led back too"
    assert [arrival.index for arrival in front.arrivals] == [*range(11, 12 + UNCHECKED)]


def test_what_waits_is_led_back_before_a_front_that_found_nothing_more_is_done():
    front = Front("organ", 10, INSIDE, -1, -1)
    front.move(YES)
    front.accept(1.0)
    front.move(YES)
    front.move(-np.abs(YES))
    assert not front.goes_on
    assert not front.done
    assert [arrival.index for arrival in front.due] == [8]
    front.accept(1.0)
    assert front.done


def test_a_front_that_has_nowhere_to_go_is_done_at_once():
    assert Front("organ", 10, INSIDE, 1, 11).done


class Fading(GreyNetwork):
    """Answers with the template's mask; on the way back from the slice `end` on with nothing.

    A slice's features are its number.
    """

    def __init__(self, end):
        super().__init__()
        self.end = end

    def decode(self, query, template, template_prompts, query_prompts=None):
        leads = template[0].flatten(1)[:, 0] < self.end
        if query_prompts is not None:
            leads = leads | query_prompts.flatten(1).any(dim=1)
        return torch.where(leads[:, None, None, None], 10 * template_prompts[:, :1, SEGLAB] - 5, -5)


@pytest.mark.parametrize("end", range(3, 10))
def test_a_mask_ends_before_the_first_slice_that_does_not_lead_back(monkeypatch, end):
    network = SliceNetwork(Fading(end), "cpu", precision="float32")
    monkeypatch.setattr(
        network, "encode", lambda stack, indices: {i: (torch.full((1, SIZE, SIZE), float(i)),) for i in indices}
    )
    stack = Stack.of(Image(np.arange(SIZE * SIZE * 14.0).reshape(SIZE, SIZE, 14), np.eye(4)))
    front = Front("organ", 0, INSIDE, 1, 14)
    pass_outward(network, stack, [front], lambda *_: np.zeros((2, 5, SIZE, SIZE), np.float32), OutwardSettings())
    assert [arrival.index for arrival in front.arrivals] == [*range(1, end)]
