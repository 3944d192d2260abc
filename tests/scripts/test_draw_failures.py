"""Pictures of failures: the worst answer comes first, and the file is a picture of all families."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow

from lib.learning.synthetic import FAMILIES
from lib.networks.checkpoints import load_network
from scripts.draw_failures import WHAT, answers, main


def test_every_family_of_synthetic_tasks_is_drawn():
    assert set(WHAT) == set(FAMILIES)


def test_answers_come_worst_first_and_are_the_same_again(tiny_weights):
    network = load_network(tiny_weights)
    first, again = (answers(network, "organs", 3) for _ in range(2))
    assert [a.dice for a in first] == sorted(a.dice for a in first)
    assert all(a.template.id != a.query.id and a.query.mask(1).any() for a in first)
    np.testing.assert_array_equal(first[0].mask, again[0].mask)


def test_the_picture_has_a_row_for_each_family_and_says_what_they_have(tiny_weights, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "failures.png"), "--weights", str(tiny_weights), "--tasks", "1"]) == 0
    with Pillow.open(tmp_path / "failures.png") as picture:
        width, height = picture.size
    assert height / width > len(FAMILIES) / 4
    assert capsys.readouterr().out.count("mean Dice") == len(FAMILIES)
