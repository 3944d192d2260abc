"""Labelled volumes as patches are drawn from them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lib.finetuning.uniseg.material import MARGIN, Material, augmentation
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.lib.finetuning.uniseg.phantoms import study

TASK = Task("list", ("ball", "stone"), (Channel("other"),), (2.0, 1.0, 1.0))


def test_a_structure_that_the_label_does_not_name_is_unknown(tmp_path: Path) -> None:
    both, one = (
        Material.of(study(tmp_path, 1, names), TASK, 5, tmp_path) for names in ({"ball": 9, "stone": 4}, {"stone": 4})
    )
    assert both.known.tolist() == [True, True]
    assert set(np.unique(both.label)) == {0, 1, 2}
    assert one.known.tolist() == [False, True]
    assert set(np.unique(one.label)) == {0, 2}
    assert both.task == 5


def test_image_and_label_stay_together_at_another_spacing(tmp_path: Path) -> None:
    coarse = dataclasses.replace(TASK, spacing=(2.0, 2.0, 1.5))
    found = Material.of(study(tmp_path, 1), coarse, 0, tmp_path)
    assert found.image.shape == (1, 12, 12, 16)
    bright = found.image[0][found.label == 1].mean()
    assert bright > 2 * found.image[0][found.label == 2].mean() > 0.5


def test_prepared_volumes_leave_no_files_behind(tmp_path: Path) -> None:
    own = study(tmp_path, 1)
    before = set(tmp_path.iterdir())
    found = Material.of(own, TASK, 0, tmp_path)
    assert set(tmp_path.iterdir()) == before
    assert found.image[0].std() > 0


@pytest.mark.parametrize("patch", [(8, 16, 16), (16, 32, 48)])
def test_patches_are_of_one_size_whatever_the_volume(tmp_path: Path, patch: tuple[int, int, int]) -> None:
    found, rng = Material.of(study(tmp_path, 1), TASK, 0, tmp_path), np.random.default_rng(0)
    for _ in range(5):
        image, label = found.draw(rng, patch, shown=0.5)
        assert image.shape[1:] == label.shape[1:] == tuple(round(side * MARGIN) for side in patch)
        changed = augmentation(patch)({"image": image, "label": label})
        assert tuple(changed["image"].shape) == (1, *patch)
        assert set(np.unique(np.asarray(changed["label"]))) <= {0, 1, 2}


def test_a_small_volume_lies_in_the_middle_as_in_the_sliding_window(tmp_path: Path) -> None:
    found = Material.of(study(tmp_path, 1), TASK, 0, tmp_path)
    _, label = found.draw(np.random.default_rng(0), (40, 40, 40), shown=1.0)
    block = round(40 * MARGIN)
    start = [(block - size) // 2 for size in found.label.shape]
    inner = tuple(slice(low, low + size) for low, size in zip(start, found.label.shape, strict=True))
    np.testing.assert_array_equal(label[0][inner], found.label)
    assert label.sum() == label[0][inner].sum()


def test_patches_are_drawn_around_structures_as_often_as_said(tmp_path: Path) -> None:
    found, rng = Material.of(study(tmp_path, 1), TASK, 0, tmp_path), np.random.default_rng(0)
    middle = tuple(round(side * MARGIN) // 2 for side in (2, 4, 4))
    always = [found.draw(rng, (2, 4, 4), shown=1.0)[1][0] for _ in range(20)]
    assert all(label.any() for label in always)
    assert {int(label[middle]) for label in always} <= {0, 1, 2}
    assert {number for label in always for number in np.unique(label)} == {0, 1, 2}
