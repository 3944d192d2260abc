"""Adaptation to templates: a better copy or none, and the network itself untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.inference.adaptation import AdaptationSettings, adapt
from lib.inference.templates import Template
from lib.networks import OnePrompt
from lib.networks.checkpoints import weights_hash
from tests.samples import TINY

FEW = AdaptationSettings(steps=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return OnePrompt(TINY).requires_grad_(False).eval()


def template(number, painted=True):
    """A bright square at a place of its own."""
    rng = np.random.default_rng(number)
    label = np.zeros((40, 40), np.uint8)
    i, j = rng.integers(4, 20, 2)
    label[i : i + 14, j : j + 14] = 1
    image = Image(rng.normal(0, 1, label.shape) + 6 * label, np.diag([-1.0, -1.0, 1.0, 1.0]))
    prompts = {} if painted else {"square": Prompt(foreground=((int(i) + 7, int(j) + 7),))}
    return Template(f"t{number}", image, label if painted else None, {"square": 1} if painted else {}, prompts)


def counter():
    calls = []
    return calls, calls.append


def test_a_copy_that_has_learnt_the_task_comes_back_and_the_network_stays_as_it_was(network):
    before = weights_hash(network)
    fractions, checkpoint = counter()
    settings = AdaptationSettings(steps=24, learning_rate=2e-2, mode="full")
    better = adapt(network, [template(n) for n in range(4)], settings, checkpoint)
    assert better is not None
    assert weights_hash(network) == before != weights_hash(better)
    assert not better.training
    assert not any(p.requires_grad for p in (*better.parameters(), *network.parameters()))
    assert fractions == [step / 24 for step in range(24)]


def test_a_copy_that_is_no_better_is_not_used(network):
    hopeless = AdaptationSettings(steps=2, least_gain=1.01)
    assert adapt(network, [template(n) for n in range(3)], hopeless) is None


@pytest.mark.parametrize("templates", [[0], []])
def test_nothing_is_trained_where_nobody_could_tell_whether_it_helped(templates, network):
    calls, checkpoint = counter()
    found = [template(n) for n in templates] + [template(9, painted=False)]
    assert adapt(network, found, FEW, checkpoint) is None
    assert calls == []


def test_structures_that_the_held_out_template_lacks_cannot_be_examined(network):
    other = template(1)
    other = Template("other", other.image, other.label, {"ghost": 1})
    assert adapt(network, [template(0), other], FEW) is None


def test_by_default_only_norms_and_biases_learn(network):
    settings = AdaptationSettings(steps=2, learning_rate=1e-2, least_gain=-1.0)
    better = adapt(network, [template(n) for n in range(2)], settings)
    after = dict(better.named_parameters())
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, after[name])}
    assert changed
    assert all(after[name].ndim <= 1 for name in changed)


def test_the_same_task_gives_the_same_copy(network):
    settings = AdaptationSettings(steps=3, least_gain=-1.0)
    first, second = (adapt(network, [template(n) for n in range(3)], settings) for _ in range(2))
    assert weights_hash(first) == weights_hash(second)


def test_a_checkpoint_may_end_it(network):
    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        adapt(network, [template(n) for n in range(2)], FEW, stop)
