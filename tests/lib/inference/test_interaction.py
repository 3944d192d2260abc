"""Slices that are their own templates; how masks pass through volumes is in test_predictor.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.prompts import PREVIOUS, Prompt, rasterise
from lib.inference.interaction import PASSES, own_answers
from lib.inference.probabilities import to_probability
from lib.inference.slice_network import SliceNetwork
from tests.lib.fakes import SIZE, GreyNetwork


class Recorder(GreyNetwork):
    """Keeps the previous answers that it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def decode(self, query, template, template_prompts, query_prompts=None):
        self.told.append(template_prompts[:, :, PREVIOUS].clone())
        return super().decode(query, template, template_prompts, query_prompts)


@pytest.fixture
def network() -> SliceNetwork:
    return SliceNetwork(Recorder(), "cpu", precision="float32")


def asked(network, prompt):
    image = np.zeros((1, 1, SIZE, SIZE), np.float32)
    image[..., 8:20, 8:20] = 5
    features = tuple(level[0] for level in network.network.encode(torch.from_numpy(image)))
    return features, rasterise(prompt, (SIZE, SIZE), SIZE)


def test_a_first_answer_is_asked_again_with_itself_as_the_previous_one(network):
    (logits,) = own_answers(network, [asked(network, Prompt(box=(6, 22, 6, 22)))])
    told = network.network.told
    assert len(told) == PASSES
    assert not told[0].any()
    np.testing.assert_allclose(told[-1][0, 0], to_probability(logits), atol=1e-5)
    np.testing.assert_allclose(told[-1].sum(dim=1), 1, atol=1e-5)
    assert (logits > 0)[8:20, 8:20].all()


def test_a_correction_is_answered_once_also_beside_a_first_answer(network):
    before = np.zeros((SIZE, SIZE), np.float32)
    before[8:20, 8:20] = 1
    correction = asked(network, Prompt(foreground=((10, 10),), previous=before))
    own_answers(network, [correction])
    assert len(network.network.told) == 1
    network.network.told.clear()
    own_answers(network, [correction, asked(network, Prompt(box=(6, 22, 6, 22)))])
    assert [len(told) for told in network.network.told] == [2, *[1] * (PASSES - 1)]
