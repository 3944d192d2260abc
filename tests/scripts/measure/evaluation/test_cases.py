"""Labelled images, checked before the work begins."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture

from lib.imaging.prompts import PromptType
from lib.learning.datasets import read_dataset
from scripts.measure.evaluation.cases import CaseFolder
from tests.scripts.measure.evaluation.samples import case, volume_case, write_squares

NAMES = {1: "square"}


def test_a_file_that_does_not_fit_is_named_and_the_others_stay(tmp_path):
    folder = write_squares(tmp_path / "a")
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "labels" / "2.png")
    (folder / "images" / "3.png").write_bytes(b"torn")
    opened = CaseFolder.open(read_dataset(folder))
    assert set(opened.refused) == {"2.png", "3.png"}
    assert "one shape" in opened.refused["2.png"]
    assert set(opened.showing) == {"0.png", "1.png", "4.png", "5.png"}


def test_the_fingerprint_changes_with_a_label_and_with_a_subject(tmp_path):
    folder = write_squares(tmp_path / "a")
    before = CaseFolder.open(read_dataset(folder)).fingerprint
    assert CaseFolder.open(read_dataset(folder)).fingerprint == before
    label = np.array(Picture.open(folder / "labels" / "0.png"))
    label[0, 0] = 1
    Picture.fromarray(label).save(folder / "labels" / "0.png")
    assert CaseFolder.open(read_dataset(folder)).fingerprint != before


@pytest.mark.parametrize("kind", [PromptType.BBOX, PromptType.CLICK, PromptType.DOODLE])
@pytest.mark.parametrize("make", [case, volume_case])
def test_a_simulated_prompt_is_the_same_whoever_asks(kind, make):
    first, again = (make(3).template(NAMES, kind, seed=0).prompt_of("square") for _ in range(2))
    assert first.types == {kind}
    assert (first.foreground, first.box) == (again.foreground, again.box)
    assert first.doodle is None or np.array_equal(first.doodle, again.doodle)
    other = [make(3).template(NAMES, kind, seed=seed).prompt_of("square") for seed in range(1, 9)]
    if not (kind is PromptType.BBOX and make is volume_case):  # the tight box has nothing random
        assert any((o.foreground, o.box) != (first.foreground, first.box) or o.doodle is not None for o in other)


def test_strokes_and_clicks_in_a_volume_lie_in_the_structure_on_few_slices():
    block = volume_case(1)
    doodle = block.template(NAMES, PromptType.DOODLE, 0).prompt_of("square").doodle
    assert not (doodle & ~block.mask(1)).any()
    assert 1 < doodle.any(axis=(0, 1)).sum() <= 3
    (point,) = block.template(NAMES, PromptType.CLICK, 0).prompt_of("square").foreground
    assert block.mask(1)[point]
    assert block.template(NAMES, PromptType.BBOX, 0).prompt_of("square").box == (3, 9, 5, 12, 1, 5)
