"""What is promised of long lists, and the pictures that they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from scripts.measure.speed.long_lists import BOARD, LONGEST, STATUS, ListCost, targets, write_pictures

SHORT = ListCost(10, 8.0, 7.0, {STATUS: (5, 9), BOARD: (6, 9)}, {STATUS: 3, BOARD: 4}, 0.20)


def test_only_the_longest_list_has_targets_and_is_compared_with_the_shortest():
    assert targets([SHORT]) == []
    long = replace(SHORT, studies=LONGEST, start=16.0, milliseconds={STATUS: (51, 60), BOARD: (49, 60)}, study=0.21)
    met = {one.name: one.met for one in targets([SHORT, long])}
    assert not met[f"start at {LONGEST}, s"]
    assert not met[f"{STATUS} at {LONGEST}, ms"]
    assert met[f"{BOARD} at {LONGEST}, ms"]
    assert met[f"a study on a list of {LONGEST} / of 10"]
    assert len(targets([long])) == len(met) - 1


def test_the_first_picture_of_a_list_has_a_label_on_its_grid(tmp_path):
    write_pictures(tmp_path, tmp_path / "label.png", 3)
    grey, label = (np.asarray(Image.open(tmp_path / name)) for name in ("study_00000.png", "label.png"))
    assert grey.shape == label.shape
    assert grey[label == 1].mean() > grey[label == 0].mean() + 80
    assert len(list(tmp_path.glob("study_*.png"))) == 3
