"""What is promised of long lists, and the pictures that they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from infers.label_records import AUTOMATIC
from infers.store.datastore import StudyStore
from infers.study_list.studies import MODELS
from scripts.measure.speed.long_lists import BOARD, LONGEST, STATUS, ListCost, targets, write_masks, write_pictures

SHORT = ListCost(10, 8.0, 7.0, {STATUS: (5, 9), BOARD: (6, 9)}, {STATUS: 4, BOARD: 5}, {STATUS: 3, BOARD: 4}, 0.20)


def test_only_the_longest_list_has_targets_and_is_compared_with_the_shortest():
    assert targets([SHORT]) == []
    long = replace(SHORT, studies=LONGEST, start_core=16.0, core_milliseconds={STATUS: 51, BOARD: 49}, study=0.21)
    met = {one.name: one.met for one in targets([SHORT, long])}
    assert not met[f"start at {LONGEST}, core s"]
    assert not met[f"{STATUS} at {LONGEST}, core ms"]
    assert met[f"{BOARD} at {LONGEST}, core ms"]
    assert met[f"a study on a list of {LONGEST} / of 10"]
    assert len(targets([long])) == len(met) - 1


def test_the_first_picture_of_a_list_has_a_label_on_its_grid(tmp_path):
    write_pictures(tmp_path, tmp_path / "label.png", 3)
    grey, label = (np.asarray(Image.open(tmp_path / name)) for name in ("study_00000.png", "label.png"))
    assert grey.shape == label.shape
    assert grey[label == 1].mean() > grey[label == 0].mean() + 80
    assert len(list(tmp_path.glob("study_*.png"))) == 3


def test_other_studies_than_those_that_are_segmented_have_masks_of_another_tool(tmp_path):
    write_pictures(tmp_path, tmp_path / "label.png", 12)
    write_masks(tmp_path, tmp_path / "label.png", range(9, 12))
    store = StudyStore(str(tmp_path))
    masks = {id: records[AUTOMATIC] for id, records in store.overview().items() if AUTOMATIC in records}
    assert list(masks) == ["study_00009", "study_00010", "study_00011"]
    assert all(mask.provenance is not None and mask.made_by(MODELS) is None for mask in masks.values())
