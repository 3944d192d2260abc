import pytest
from monailabel.config import settings

import lib.networks.list_unet
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_unet_training import ListUNetSettings
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.training_record import read_record
from tests.samples import organ_volume, write_nifti
from trainers.list_unet import ListUNetTrainer

QUICK = ListUNetSettings(epochs=1, steps=40, batch=2, rate=0.01)


@pytest.fixture
def make(tiny_weights, tmp_path, monkeypatch):
    """A trainer of a thin network on some studies."""
    monkeypatch.setattr(lib.networks.list_unet, "FILTERS", (4, 8, 8))
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def trainer(count, unlearnt=lambda studies: tiny_weights):
        studies = []
        for number in range(count):
            image, mask = organ_volume(number, (40, 36, 6))
            files = (
                write_nifti(tmp_path / f"s{number}.nii.gz", image),
                write_nifti(tmp_path / f"l{number}.nii.gz", mask),
            )
            studies.append(LabelledStudy(f"s{number}", *files, {"organ": 1}, f"c{number}"))
        return ListUNetTrainer(ServedListUNet(tmp_path / "models"), unlearnt, lambda: studies, QUICK)

    return trainer


def run(trainer, **request):
    return trainer({"model": "oneprompt_specialist", **request}, None)


def test_what_beats_one_prompt_is_offered_with_its_record(make, tmp_path):
    trainer = make(2)
    stats = run(trainer)
    offered = ServedListUNet(tmp_path / "models").status()
    assert offered["structures"] == ["organ"]
    assert offered["after"]["dice"] > offered["before"]["dice"]  # of an untrained One-Prompt
    assert offered["studies"] == {"s0": "c0", "s1": "c1"}
    assert offered["won_from"] == 2
    assert offered["examined_on"] == "held-out studies"
    record = read_record(trainer.models)
    assert (record["state"], record["epoch"], len(record["curve"])) == ("published", 3, 3)
    assert stats["total_epochs"] == 3
    assert list(trainer.models.glob("train_01/events_*/*"))  # TensorBoard


def test_one_prompt_is_asked_with_weights_that_the_held_out_studies_are_new_to(make, tiny_weights):
    asked = []
    run(make(2, lambda studies: asked.append(studies) or tiny_weights))
    assert asked == [{"s0", "s1"}]


def test_what_is_not_better_is_not_offered_and_takes_one_from_fewer_labels_with_it(make, tmp_path, monkeypatch):
    run(make(2))
    served = ServedListUNet(tmp_path / "models")
    first = served.hash
    run(make(2), learning_rate=0.0)
    assert served.hash == first  # the same labels: nothing new is known of it
    assert read_record(served.path.parent)["state"] == "candidate"
    run(make(3), learning_rate=0.0)
    assert served.hash == first  # a client's own numbers say nothing about it
    monkeypatch.setattr("trainers.list_unet.ListUNetTraining.verdict", lambda self: (False, "not better"))
    run(make(3))
    assert served.status() == {"hash": None, "withdrawn": True}
    assert "the one from 2 labelled studies is withdrawn" in read_record(served.path.parent)["reason"]


def test_a_single_study_is_learnt_from_by_halves_and_named_once(make):
    trainer = make(1)
    stats = run(trainer)
    offered = ServedListUNet(trainer.models).status()
    assert offered["studies"] == {"s0": "c0"}
    assert offered["won_from"] == 1
    assert offered["examined_on"] == "halves of the one study"
    assert stats["total_epochs"] == 3
