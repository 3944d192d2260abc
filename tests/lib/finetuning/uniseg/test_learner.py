"""One training step of UniSeg, and what it makes of structures that a label does not name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.finetuning.uniseg.learner import UniSegLearner, deep_loss, dice_and_cross_entropy
from lib.finetuning.uniseg.material import Patch
from lib.learning.training import TrainingConfig
from lib.networks.uniseg import UniSeg, UniSegConfig

TINY = UniSegConfig(tasks=2, outputs=3, patch=(8, 16, 16), base=2, most_features=8, strides=((1, 2, 2), (2, 2, 2)))
CONFIG = TrainingConfig(optimizer="adamw", bf16=False)
LABEL = torch.tensor([[[[0, 1], [2, 1]]]])
ALL = torch.tensor([[True, True]])


def test_the_right_answer_costs_nothing_and_a_wrong_one_much() -> None:
    right = 20 * F.one_hot(LABEL, 3).movedim(-1, 1).float()
    assert dice_and_cross_entropy(right, LABEL, ALL) < 0.01
    assert dice_and_cross_entropy(right.roll(1, dims=1), LABEL, ALL) > 10


def test_a_structure_that_the_label_does_not_name_counts_as_background() -> None:
    known, label = torch.tensor([[True, False]]), torch.where(LABEL == 2, 0, LABEL)
    as_background = 20 * F.one_hot(label, 3).movedim(-1, 1).float()
    as_unknown = 20 * F.one_hot(LABEL, 3).movedim(-1, 1).float()
    assert dice_and_cross_entropy(as_background, label, known) < 0.01
    assert dice_and_cross_entropy(as_unknown, label, known) < 0.01
    assert dice_and_cross_entropy(as_unknown, label, ALL) > 1


def test_a_batch_may_hold_labels_that_name_different_structures() -> None:
    logits = torch.zeros(2, 3, 2, 2, 2, requires_grad=True)
    label = torch.zeros(2, 2, 2, 2, dtype=torch.long)
    dice_and_cross_entropy(logits, label, torch.tensor([[True, True], [True, False]])).backward()
    gradient = logits.grad
    assert gradient is not None
    assert (gradient[0, 2] > 0).all()  # named, and not there
    assert (gradient[1, 2] <= 0).all()  # unknown: as good as background
    torch.testing.assert_close(gradient[1, 2], gradient[1, 0])


def test_the_coarsest_resolution_counts_nothing_and_each_other_half_of_the_finer_one() -> None:
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    levels = [torch.zeros(1, 3, 8 // n, 8 // n, 8 // n, requires_grad=True) for n in (1, 2, 4)]
    deep_loss(levels, label, ALL).backward()
    fine, middle, coarse = (level.grad for level in levels)
    assert coarse is None
    assert fine is not None
    assert middle is not None
    assert float(fine.abs().sum() / middle.abs().sum()) == pytest.approx(2, rel=0.01)


def patch(task: int, known: tuple[bool, ...] = (True, True)) -> Patch:
    rng = np.random.default_rng(task)
    image = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    return Patch(image, (image[0] > 1).astype(np.uint8), np.array(known), task)


def test_a_batch_of_two_tasks_is_refused() -> None:
    learner = UniSegLearner(UniSeg(TINY), [3, 3])
    with pytest.raises(ValueError, match=r"a batch must be of one task, got \[0, 1\]"):
        learner([patch(0), patch(1)], CONFIG, np.random.default_rng(0))


def test_where_a_label_knows_nothing_an_older_network_is_the_teacher() -> None:
    torch.manual_seed(0)
    older = UniSeg(TINY).eval()
    learner = UniSegLearner(UniSeg(TINY), [3, 2], older)
    assert not any(name.startswith("_older") for name in learner.state_dict())
    blank = Patch(patch(1).image, np.zeros((8, 16, 16), np.uint8), np.array([False]), 1)
    with torch.no_grad():
        taught = older(torch.from_numpy(blank.image)[None], 1)[0][:, :2].argmax(dim=1)
        logits = [level[:, :2] for level in learner.network(torch.from_numpy(blank.image)[None], 1)]
    loss, result = learner([blank], CONFIG, np.random.default_rng(0))
    torch.testing.assert_close(loss, deep_loss(logits, taught, torch.tensor([[True]])))
    assert result.modes == ("uniseg",)
