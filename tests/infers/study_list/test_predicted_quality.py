"""Six corrections show that masks estimated near 0.90 are much worse: everyone then sees 0.64 for them and 0.66 for a
mask that was estimated at 0.70, and puts the two in that order."""

import numpy as np
import pytest

from infers.board.board import Board
from infers.jobs.propagation import Propagation
from infers.label_records import FINAL
from infers.serving.priority_lock import PriorityLock
from infers.study_list.acceptance import Acceptance
from infers.study_list.corrections import Corrections
from infers.study_list.pending_results import PendingResults
from infers.study_list.rows import Wanted
from infers.study_list.strategies import strategies
from infers.study_list.template_check import TemplateCheck
from lib.inference.control import Control
from lib.quality.estimator import Estimator
from tests.infers.fakes import FakePredictor, make_studies, mask_record
from tests.samples import write_nifti

SHAPE = (10, 10, 10)
CORRECTED = [f"corrected{number}" for number in range(6)]


def estimated(dice):
    return mask_record(
        label_names={"organ": 1}, quality={"organ": dice}, quality_estimate={"organ": dice}, templates=["corrected0"]
    )


@pytest.fixture
def studies(tmp_path):
    """Six corrected studies, and two that wait and look the same, so that only quality tells them apart."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in (*CORRECTED, "optimistic", "modest"):
        noise = np.random.default_rng(name in CORRECTED).random(SHAPE).astype(np.float32)
        write_nifti(folder / f"{name}.nii.gz", noise)
    studies = make_studies(str(folder), FakePredictor())
    truth, mask = np.zeros((2, np.prod(SHAPE)), np.uint8)
    truth[:500], mask[:191] = 1, 1  # Dice 2 * 191 / (500 + 191) = 0.553
    for number, name in enumerate(CORRECTED):  # each elsewhere: the same case twice is one case
        file = write_nifti(tmp_path / "mask.nii.gz", np.roll(mask, number).reshape(SHAPE))
        studies.store.save_automatic(name, file, estimated(0.90), studies.models)
        file = write_nifti(tmp_path / "label.nii.gz", np.roll(truth, number).reshape(SHAPE))
        studies.store.save_label(name, str(file), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    for name, dice in (("optimistic", 0.90), ("modest", 0.70)):
        studies.store.save_automatic(name, tmp_path / "mask.nii.gz", estimated(dice), studies.models)
    for name in studies.store.list_images():
        studies.descriptors.of(name)
    return studies


@pytest.fixture
def board(studies):
    state = studies.store.state
    acceptance = Acceptance(studies.store, PendingResults(state / "offers"), 60, print, studies.labels.learn)
    return Board(studies, Propagation(studies, PriorityLock(), state), acceptance, print, TemplateCheck(studies))


def order(studies, board):
    """The two studies from the worst on, as everyone orders them."""
    rows = board.page(Wanted(statuses=("automatic",), sort="worst")).rows
    given = strategies(studies)["oneprompt_next"]({}, studies.store)["id"]
    other = {"optimistic": "modest", "modest": "optimistic"}[given]
    return {"board": [row.id for row in rows], "strategy": [given, other], "job": studies.pending()}


def test_board_strategy_and_job_agree_on_which_mask_is_worse_before_and_after_corrections(studies, board, tmp_path):
    assert set(map(tuple, order(studies, board).values())) == {("modest", "optimistic")}
    Corrections(studies, tmp_path / "checks.json", Estimator.shipped()).learn(Control())
    assert set(map(tuple, order(studies, board).values())) == {("optimistic", "modest")}


def test_acceptance_above_a_bound_goes_by_the_same_numbers(studies, board, tmp_path):
    assert board.above(0.85, "") == ["optimistic"]
    Corrections(studies, tmp_path / "checks.json", Estimator.shipped()).learn(Control())
    predicted = {row.id: row.predicted for row in board.rows() if row.status == "automatic"}
    assert predicted == {"optimistic": pytest.approx(0.64, abs=0.005), "modest": pytest.approx(0.66, abs=0.005)}
    assert board.above(0.65, "") == ["modest"]


def test_the_template_check_goes_by_the_same_numbers(studies, tmp_path):
    Corrections(studies, tmp_path / "checks.json", Estimator.shipped()).learn(Control())
    health = TemplateCheck(studies)
    health._trials = ["optimistic", "modest"]
    assert health._tried()[1] == {
        "optimistic": pytest.approx(0.64, abs=0.005),
        "modest": pytest.approx(0.66, abs=0.005),
    }
