"""PromptSeg as MONAI Label fine-tunes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monailabel.config import settings

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.served_promptseg import TunedPromptSeg
from lib.finetuning.training_record import read_record
from lib.finetuning.tuning import FineTuning
from lib.networks.checkpoints import load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from tests.samples import organ_volume, write_nifti
from trainers.promptseg import PromptSegTrainer

QUICK = FineTuning(epochs=1, steps=25, batch=2, queries=3, rates={"full": 0.01}, synthetic=0.0)


@pytest.fixture
def make(promptseg_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PromptSegTrainer]:
    """A trainer of a tiny network on some studies with an organ."""
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    base = weights_hash(load_network(promptseg_weights, "cpu", PromptSeg))

    def trainer(count: int, offered: bool = True) -> PromptSegTrainer:
        studies = []
        for number in range(count):
            image, mask = organ_volume(number, (40, 36, 6))
            image_file = write_nifti(tmp_path / f"s{number}.nii.gz", image)
            label_file = write_nifti(tmp_path / f"l{number}.nii.gz", mask)
            studies.append(LabelledStudy(f"s{number}", image_file, label_file, {"organ": 1}, f"c{number}"))
        weights = (promptseg_weights, base) if offered else None
        return PromptSegTrainer(TunedPromptSeg(tmp_path / "tuned"), lambda: weights, lambda: studies, QUICK)

    return trainer


def run(trainer: PromptSegTrainer, **request: Any) -> dict[str, Any]:
    return trainer({"model": "promptseg", **request}, None)


def test_what_is_better_on_held_out_studies_is_published_with_its_record(
    make: Callable[..., PromptSegTrainer], promptseg_weights: Path, tmp_path: Path
) -> None:
    run(make(2))
    base = weights_hash(load_network(promptseg_weights, "cpu", PromptSeg))
    published = TunedPromptSeg(tmp_path / "tuned")
    record = published.status()
    assert published.of(base) is not None
    assert record["after"]["dice"] > record["before"]["dice"]  # of random weights
    assert (record["parent"], record["base"], record["studies"]) == (base, base, {"s0": "c0", "s1": "c1"})
    assert read_record(tmp_path / "tuned")["state"] == "published"


def test_what_is_not_better_stays_a_candidate(make: Callable[..., PromptSegTrainer], tmp_path: Path) -> None:
    run(make(2), learning_rate=0.0, steps_per_epoch=1)
    assert TunedPromptSeg(tmp_path / "tuned").current is None
    assert read_record(tmp_path / "tuned")["state"] == "candidate"


@pytest.mark.parametrize(("count", "offered", "words"), [(1, True, "2 labelled studies"), (2, False, "--conf model")])
def test_it_says_what_it_lacks(
    make: Callable[..., PromptSegTrainer], tmp_path: Path, count: int, offered: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(make(count, offered))
    assert read_record(tmp_path / "tuned")["state"] == "failed"
