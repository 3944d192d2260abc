"""UniSeg as MONAI Label trains it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monailabel.config import settings

from lib.finetuning.training_record import read_record
from lib.finetuning.uniseg.course import UniSegSettings
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.model import UniSegModel, save_model
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.lib.finetuning.uniseg.phantoms import study
from trainers.uniseg import UniSegTrainer

QUICK = UniSegSettings(epochs=1, steps=60, batch=2, rate=4e-3, sure=0.0, folds=2)
SIZES = UniSegConfig(base=4, most_features=16, patch=(8, 16, 16), strides=((1, 2, 2), (2, 2, 2)))


@pytest.fixture
def make(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., UniSegTrainer]:
    """A trainer of a tiny network on some phantoms."""
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def trainer(count: int, configured: Path | None = None, numbers: UniSegSettings = QUICK) -> UniSegTrainer:
        studies = [study(tmp_path, seed) for seed in range(count)]
        served = ServedUniSeg(tmp_path / "models", configured=configured)
        return UniSegTrainer(served, lambda held_out: tiny_weights, lambda: studies, numbers, SIZES)

    return trainer


def run(trainer: UniSegTrainer, **request: Any) -> dict[str, Any]:
    return trainer({"model": "uniseg", **request}, None)


def test_what_beats_one_prompt_on_held_out_studies_is_offered_with_its_record(
    make: Callable[..., UniSegTrainer], tmp_path: Path
) -> None:
    stats = run(make(2))
    offered = ServedUniSeg(tmp_path / "models").status()
    assert offered["structures"] == ["ball", "stone"]
    assert offered["after"]["dice"] > offered["before"]["dice"]  # of an untrained One-Prompt
    assert offered["studies"] == {"study 0": "0", "study 1": "1"}
    assert offered["examined_on"] == "held-out studies"
    record = read_record(tmp_path / "models")
    assert (record["state"], record["epoch"]) == ("published", 3)
    assert stats["total_epochs"] == 3


def test_what_is_not_better_stays_a_version(make: Callable[..., UniSegTrainer], tmp_path: Path) -> None:
    run(make(2), learning_rate=0.0, steps_per_epoch=1)
    served = ServedUniSeg(tmp_path / "models")
    assert served.model is None
    assert read_record(tmp_path / "models")["state"] == "candidate"
    assert [version["state"] for version in served.versions.all()] == ["candidate"]


def test_it_begins_with_the_configured_model_and_keeps_its_tasks_and_its_licence(
    make: Callable[..., UniSegTrainer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    old = Task("old", ("old thing",), (Channel("other"),), (2.0, 1.0, 1.0))
    base = UniSegModel(UniSeg(SIZES).eval(), (old,), {"licence": "non-commercial"})
    save_model(tmp_path / "base.safetensors", base)
    run(make(2, tmp_path / "base.safetensors"), steps_per_epoch=1, max_epochs=1, learning_rate=0.0)
    [version] = ServedUniSeg(tmp_path / "models").versions.all()
    assert [task["name"] for task in version["tasks"]] == ["old", "this list"]
    assert version["licence"] == "non-commercial"
    run(make(2, tmp_path / "base.safetensors"), steps_per_epoch=1, max_epochs=1, keep=False, apart=True)
    newest = ServedUniSeg(tmp_path / "models").versions.all()[0]
    assert [task["name"] for task in newest["tasks"]] == ["this list: ball", "this list: stone"]


def test_further_lists_are_tasks_beside(make: Callable[..., UniSegTrainer], tmp_path: Path) -> None:
    folder = tmp_path / "far"
    own = study(tmp_path, 9)
    for kind, path in (("images", own.image), ("labels", own.label)):
        (folder / kind).mkdir(parents=True)
        path.rename(folder / kind / "a.nii.gz")
    (folder / "dataset.json").write_text('{"labels": {"1": "boulder"}}')
    trainer = make(2)
    trainer._lists = (folder,)
    run(trainer, steps_per_epoch=1, max_epochs=1)
    [version] = ServedUniSeg(tmp_path / "models").versions.all()
    assert [task["name"] for task in version["tasks"]] == ["this list", "far"]


def test_a_single_labelled_study_is_refused_with_what_to_do(make: Callable[..., UniSegTrainer]) -> None:
    with pytest.raises(ValueError, match="UniSeg learns from 2 labelled studies at the least"):
        run(make(1))
