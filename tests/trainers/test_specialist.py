import pytest
import torch
from monailabel.config import settings

import lib.specialist
from lib.checkpoints import save_network
from lib.networks import OnePrompt
from lib.served_specialist import ServedSpecialist
from lib.specialist_training import SpecialistSettings
from lib.training_record import read_record
from tests.samples import TINY, organ_volume, write_nifti
from trainers.specialist import SpecialistTrainer

QUICK = SpecialistSettings(epochs=1, steps=40, batch=2, rate=0.01)


@pytest.fixture
def make(tiny_weights, tmp_path, monkeypatch):
    """A trainer of a thin network on some studies."""
    monkeypatch.setattr(lib.specialist, "FILTERS", (4, 8, 8))
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
            studies.append((f"s{number}", *files, {"organ": 1}, f"c{number}"))
        return SpecialistTrainer(ServedSpecialist(tmp_path / "models"), lambda: tiny_weights, lambda: studies, QUICK)

    return trainer


def run(trainer, **request):
    return trainer({"model": "oneprompt_specialist", **request}, None)


def test_what_beats_one_prompt_is_offered_with_its_record(make, tmp_path):
    trainer = make(2)
    stats = run(trainer)
    offered = ServedSpecialist(tmp_path / "models").told()
    assert offered["structures"] == ["organ"]
    assert offered["after"]["dice"] > offered["before"]["dice"]  # of an untrained One-Prompt
    assert offered["studies"] == {"s0": "c0", "s1": "c1"}
    assert offered["won_from"] == 2
    assert offered["examined_on"] == "held-out studies"
    record = read_record(trainer.models)
    assert (record["state"], record["epoch"], len(record["curve"])) == ("published", 3, 3)
    assert stats["total_epochs"] == 3
    assert list(trainer.models.glob("train_01/events_*/*"))  # TensorBoard


def test_what_is_not_better_is_not_offered_and_takes_one_from_fewer_labels_with_it(make, tmp_path, monkeypatch):
    run(make(2))
    served = ServedSpecialist(tmp_path / "models")
    first = served.hash
    run(make(2), learning_rate=0.0)
    assert served.hash == first  # the same labels: nothing new is known of it
    assert read_record(served.path.parent)["state"] == "candidate"
    run(make(3), learning_rate=0.0)
    assert served.hash == first  # a client's own numbers say nothing about it
    monkeypatch.setattr("trainers.specialist.SpecialistTraining.verdict", lambda self: (False, "not better"))
    run(make(3))
    assert served.told() == {"hash": None, "withdrawn": True}
    assert "the one from 2 labelled studies is withdrawn" in read_record(served.path.parent)["reason"]


def test_a_win_over_weights_that_are_no_longer_served_takes_nothing_away(make, tmp_path, monkeypatch):
    run(make(2))
    first = ServedSpecialist(tmp_path / "models").hash
    trainer = make(3)
    monkeypatch.setattr(trainer, "_served", iter([trainer._served(), tmp_path / "gone"]).__next__)
    run(trainer)
    assert ServedSpecialist(tmp_path / "models").hash == first
    assert "published meanwhile" in read_record(trainer.models)["reason"]


def test_it_is_not_offered_where_other_weights_than_it_was_compared_with_are_served_by_then(
    make, tmp_path, tiny_weights, monkeypatch
):
    trainer, other = make(2), tmp_path / "other.safetensors"
    torch.manual_seed(7)
    save_network(other, OnePrompt(TINY), {})
    served = iter([tiny_weights, other])
    monkeypatch.setattr(trainer, "_served", lambda: next(served))
    run(trainer)
    assert ServedSpecialist(tmp_path / "models").current is None
    assert "published meanwhile" in read_record(trainer.models)["reason"]


def test_too_few_labels_are_refused_with_what_to_do(make):
    trainer = make(1)
    with pytest.raises(ValueError, match="save more labels first"):
        run(trainer)
    assert read_record(trainer.models)["state"] == "failed"
