import json

import pytest
import torch
from monailabel.config import settings

from lib.checkpoints import load_network, read_provenance, weights_hash
from tests.samples import organ_volume, write_nifti
from trainers.oneprompt import OnePromptTrainer


@pytest.fixture
def make(tiny_weights, tmp_path, monkeypatch):
    """A trainer on some studies."""

    # As the app sets them
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def trainer(count):
        studies = []
        for number in range(count):
            image, mask = organ_volume(number, (40, 36, 6))
            files = (
                write_nifti(tmp_path / f"s{number}.nii.gz", image),
                write_nifti(tmp_path / f"l{number}.nii.gz", mask),
            )
            studies.append((f"s{number}", *files, {"organ": 1}))
        models = tmp_path / "models"
        models.mkdir()
        return OnePromptTrainer(
            models, models / "new.safetensors", {"base": "b"}, lambda: tiny_weights, lambda: (studies, {"organ": 1})
        )

    return trainer


def run(trainer, **request):
    torch.manual_seed(0)
    return trainer(
        {"model": "oneprompt", "max_epochs": 2, "steps_per_epoch": 2, "train_batch_size": 2, **request}, None
    )


def test_training_publishes_what_beats_the_served_weights(make, tiny_weights):
    trainer = make(3)
    stats = run(trainer, max_epochs=2, steps_per_epoch=6, learning_rate=0.02)
    published = trainer._published
    assert published.exists()  # an untrained network is easily beaten
    told = read_provenance(published)
    assert told["dice"] > told["dice_of_parent"]
    assert told["base"] == "b"
    assert told["parent"] == weights_hash(load_network(tiny_weights))
    assert told["examined_on"] == "held-out studies"
    assert told["studies"] == 3
    assert stats["best_metric"] == pytest.approx(told["dice"], abs=1e-3)
    assert weights_hash(load_network(published)) != told["parent"]


def test_training_that_does_not_help_publishes_nothing(make):
    trainer = make(2)
    run(trainer, learning_rate=0.0)
    assert not trainer._published.exists()


def test_one_study_is_examined_on_copies_and_says_so(make):
    trainer = make(1)
    run(trainer, max_epochs=2, steps_per_epoch=6, learning_rate=0.02)
    assert read_provenance(trainer._published)["examined_on"] == "changed copies"


def test_clients_read_progress_from_the_statistics(make):
    trainer = make(2)
    run(trainer)
    stats = trainer.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert (stats["epoch"], stats["total_epochs"]) == (2, 2)
    assert 0 <= stats["best_metric"] <= 1
    assert stats["total_time"]
    assert trainer.info()["config"]["tracking"][0] == "None"
    assert "tracking_uri" not in trainer.info()["config"]


def test_without_a_label_there_is_nothing_to_learn(make):
    with pytest.raises(ValueError, match="save one first"):
        run(make(0))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own database
def test_experiments_are_tracked_in_a_store_that_mlflow_takes(make):
    trainer = make(2)
    run(trainer, max_epochs=1, tracking="mlflow")
    assert (trainer._published.parents[1] / "mlflow.db").exists()
