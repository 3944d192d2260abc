"""Fine-tuning PromptSeg on phantoms: what learns, what stays, and what the verdict rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib.finetuning.course import HELD_OUT, run
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.promptseg import PromptSegTuning
from lib.finetuning.served_promptseg import TunedPromptSeg
from lib.finetuning.tuning import FineTuning
from lib.networks.checkpoints import encoder_hash, weights_hash
from lib.networks.promptseg import PromptSeg
from tests.samples import TINY_PROMPTSEG, organ_volume, write_nifti

QUICK = FineTuning(epochs=1, steps=25, batch=2, queries=3, rates={"full": 0.01}, synthetic=0.0)


@pytest.fixture
def studies(tmp_path: Path) -> list[LabelledStudy]:
    """Three studies that show an organ."""
    found = []
    for number in range(3):
        image, mask = organ_volume(number, (40, 36, 6))
        files = [write_nifti(tmp_path / f"{kind}{number}.nii.gz", array) for kind, array in (("s", image), ("l", mask))]
        found.append(LabelledStudy(f"s{number}", *files, {"organ": 1}, f"c{number}"))
    return found


@pytest.fixture
def parent() -> PromptSeg:
    torch.manual_seed(0)
    return PromptSeg(TINY_PROMPTSEG).eval()


def test_it_learns_from_several_prompts_and_is_asked_about_studies_held_out(studies, parent):
    before = weights_hash(parent)
    course = run(PromptSegTuning(parent, studies, QUICK))
    assert weights_hash(parent) == before
    assert encoder_hash(course.network) == encoder_hash(parent)  # an encoded slice goes on to serve both
    assert weights_hash(course.network) != before
    assert course.question_source == HELD_OUT
    assert len(course.before.dice["organ"]) == len(course.after.dice["organ"]) == 3
    better, reason = course.verdict()
    assert better == (course.after.mean_dice >= course.before.mean_dice + QUICK.least_gain)
    assert f"{course.before.mean_dice:.3f} to {course.after.mean_dice:.3f}" in reason
    assert course.after.mean_dice > course.before.mean_dice  # of random weights


def test_what_learnt_nothing_is_not_better(studies, parent):
    course = run(PromptSegTuning(parent, studies[:2], FineTuning(epochs=1, steps=1, queries=2, rates={"full": 0.0})))
    assert course.verdict()[0] is False
    assert "not better by" in course.verdict()[1]


def test_what_is_published_is_for_the_weights_that_it_was_trained_from(tmp_path, parent):
    served = TunedPromptSeg(tmp_path)
    assert served.status() == {"hash": None, "withdrawn": False}
    served.publish(parent, {"base": "abc"})
    assert weights_hash(served.of("abc")) == served.hash == served.status()["hash"] == weights_hash(parent)
    assert served.of("another") is None
    assert served.withdraw()
    assert served.of("abc") is None
    assert served.status()["withdrawn"]
