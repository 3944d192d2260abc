"""A volume window by window: the same numbers as all at once, and no more held than a few slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from lib.networks.uniseg import UniSeg
from lib.segmenters.uniseg.study import resized
from lib.segmenters.uniseg.tasks import Task
from lib.segmenters.uniseg.windows import ClassMap, window_logits, window_slabs
from tests.lib.segmenters.uniseg.fakes import GREY, untrained

WINDOW = (8, 16, 16)
CLASSES = {0: 3, 1: 2}
TASKS = (Task("organ", ("organ", "lesion"), (GREY,), (1, 1, 1)), Task("nodule", ("nodule",), (GREY,), (1, 1, 1)))


@pytest.fixture(scope="module")
def network() -> UniSeg:
    return untrained(0, TASKS).network


@torch.inference_mode()
def by_monai(network: UniSeg, image: Tensor) -> list[Tensor]:
    """MONAI's sliding window, which holds all of it."""

    def answers(windows: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            outputs = network.decode_tasks(network.encode(windows), list(CLASSES))
        return tuple(logits[:, :count] for logits, count in zip(outputs, CLASSES.values(), strict=True))

    return [own[0] for own in sliding_window_inference(image[None], WINDOW, 1, answers, 0.5, mode="gaussian")]


@pytest.mark.parametrize("shape", [(21, 19, 30), (5, 40, 9), (8, 16, 16)])
def test_the_slabs_are_what_monais_sliding_window_gives(
    network: UniSeg, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr("lib.segmenters.uniseg.windows.computes_in_bfloat16", lambda device: False)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    for own, expected in zip(window_logits(network, image, CLASSES, WINDOW), by_monai(network, image), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)


def test_a_deeper_volume_comes_in_more_slabs_and_not_in_larger_ones(network: UniSeg) -> None:
    depths = {}
    for depth in (16, 64):
        slabs = window_slabs(network, torch.zeros(1, depth, 16, 16), CLASSES, WINDOW)
        depths[depth] = [slab[0].shape[1] for slab in slabs]
    assert sum(depths[64]) == 64
    assert max(depths[64]) == max(depths[16]) == WINDOW[0]


@pytest.mark.parametrize("shape", [(31, 10, 9), (7, 6, 5), (12, 6, 5), (1, 3, 3)])
def test_classes_on_another_grid_are_those_of_the_whole_volume_at_once(shape: tuple[int, int, int]) -> None:
    logits = 3 * torch.randn(4, 12, 6, 5, generator=torch.Generator().manual_seed(1))
    classes = ClassMap(12, shape)
    for start, stop in ((0, 1), (1, 7), (7, 12)):
        classes.add(logits[:, start:stop])
    probabilities = torch.stack([resized(own, shape) for own in logits.softmax(dim=0)])
    np.testing.assert_array_equal(classes.numbers, probabilities.argmax(dim=0).numpy())
