import numpy as np
import pytest

from infers.label_records import AUTOMATIC, FINAL
from infers.study_list.scoring import DiceScoring
from infers.study_list.studies import MODEL
from lib.imaging.images import read_image, write_label
from tests.infers.fakes import FakePredictor, make_studies
from tests.samples import write_nifti

NAMES = {"liver": 1, "spleen": 2}


@pytest.fixture
def studies(tmp_path):
    (tmp_path / "studies").mkdir()
    for name in ("s0", "s1"):
        write_nifti(tmp_path / "studies" / f"{name}.nii.gz", np.random.default_rng(0).random((10, 10, 4)))
    return make_studies(str(tmp_path / "studies"), FakePredictor())


def put(studies, tmp_path, image_id, tag, mask, info):
    path = tmp_path / "mask.nii.gz"
    write_label(path, mask, read_image(studies.store.get_image_uri(image_id)))
    studies.store.save_label(image_id, str(path), tag, info)


def boxes():
    """Two structures; the second lies one voxel (1.5 mm) further along the first axis in the answer."""
    truth, answer = np.zeros((2, 10, 10, 4), np.uint8)
    truth[0:4, 0:4] = answer[0:4, 0:4] = 1
    truth[5:9, 5:9], answer[6:10, 5:9] = 2, 2
    return truth, answer


def test_every_structure_has_its_own_dice_and_surface_distance(studies, tmp_path):
    truth, answer = boxes()
    put(studies, tmp_path, "s0", FINAL, truth, {"structures": NAMES})
    put(studies, tmp_path, "s0", AUTOMATIC, answer, {"model": MODEL, "params": {"label_names": NAMES}})
    found = DiceScoring(studies)({}, None)
    assert found["s0"]["liver"] == {"dice": 1.0, "surface_mm": 0.0}
    assert found["s0"]["spleen"]["dice"] == 0.75
    assert 0.3 < found["s0"]["spleen"]["surface_mm"] <= 1.5
    assert found["mean"]["spleen"] == found["s0"]["spleen"]
    assert studies.store.get_label_info("s0", AUTOMATIC)["score"] == found["s0"]


def test_values_are_compared_by_name_not_by_number(studies, tmp_path):
    truth, answer = boxes()
    swapped = np.choose(answer, (0, 2, 1)).astype(np.uint8)
    put(studies, tmp_path, "s0", FINAL, truth, {"structures": NAMES})
    names = {"liver": 2, "spleen": 1}
    put(studies, tmp_path, "s0", AUTOMATIC, swapped, {"model": MODEL, "params": {"label_names": names}})
    assert DiceScoring(studies)({}, None)["s0"]["liver"]["dice"] == 1.0


def test_a_structure_that_was_not_found_scores_nothing(studies, tmp_path):
    truth, answer = boxes()
    put(studies, tmp_path, "s0", FINAL, truth, {"structures": NAMES})
    put(
        studies,
        tmp_path,
        "s0",
        AUTOMATIC,
        answer * (answer == 1),
        {"model": MODEL, "params": {"label_names": {"liver": 1}}},
    )
    assert DiceScoring(studies)({}, None)["s0"]["spleen"]["dice"] == 0.0


def test_what_says_nothing_is_left_out(studies, tmp_path):
    truth, answer = boxes()
    put(studies, tmp_path, "s0", FINAL, answer, {"structures": NAMES, "accepted": "review board"})  # the mask itself
    put(studies, tmp_path, "s0", AUTOMATIC, answer, {"model": MODEL, "params": {"label_names": NAMES}})
    put(studies, tmp_path, "s1", FINAL, truth, {"structures": NAMES})
    put(studies, tmp_path, "s1", AUTOMATIC, answer, {"somebody": "else"})
    assert DiceScoring(studies)({}, None) == {"mean": {}}
