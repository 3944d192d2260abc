import errno
import json

import pytest
import torch
from ignite.engine import Events
from monailabel.config import settings

import trainers.course
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.oneprompt import FineTune
from lib.finetuning.training_record import read_record
from lib.finetuning.tuning import FineTuning
from lib.finetuning.versions import Versions
from lib.networks.checkpoints import load_network, read_provenance, weights_hash
from tests.samples import organ_volume, write_nifti
from trainers.course import CHECKPOINT, LABELS
from trainers.oneprompt import OnePromptTrainer

QUICK = FineTuning(epochs=2, steps=6, batch=2, queries=2, rates={"full": 0.01, "norms": 0.02, "lora": 0.02})


@pytest.fixture
def make(tiny_weights, promptseg_weights, tmp_path, monkeypatch):
    """A trainer on some studies, whose list PromptSeg segments or not."""

    # As the app sets them
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    beside = ListPromptSeg(promptseg_weights, "of PromptSeg", least=2, most=8, most_one_prompt=4)

    def trainer(count, shape=(40, 36, 6), promptseg=False):
        studies = []
        for number in range(count):
            image, mask = organ_volume(number, shape)
            files = (
                write_nifti(tmp_path / f"s{number}.nii.gz", image),
                write_nifti(tmp_path / f"l{number}.nii.gz", mask * (number + 1)),
            )
            studies.append(LabelledStudy(f"s{number}", *files, {"organ": number + 1}, f"c{number}"))
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        versions = Versions(models / "versions", models / "new.safetensors")
        return OnePromptTrainer(
            models,
            versions,
            lambda: {"base": "b"},
            lambda: tiny_weights,
            lambda: studies,
            QUICK,
            lambda: beside if promptseg else None,
        )

    return trainer


def run(trainer, **request):
    return trainer({"model": "oneprompt", **request}, None)


def test_training_publishes_what_beats_the_served_weights_and_says_who_segments_the_list(make, tiny_weights):
    trainer = make(3, promptseg=True)
    stats = run(trainer)
    told = read_provenance(trainer.versions.published)  # an untrained network is easily beaten
    assert told["state"] == "published"
    assert told["after"]["dice"] > told["before"]["dice"]
    assert told["base"] == "b"
    assert told["parent"] == weights_hash(load_network(tiny_weights))
    assert told["examined_on"] == "held-out studies"
    decision = told["promptseg"]
    assert decision["base"] == "of PromptSeg"
    assert decision["least"] == (0 if decision["candidate"] >= decision["dice"] + QUICK.least_gain else 2)
    assert told["reason"].endswith(decision["reason"])
    assert told["studies"] == {"s0": "c0", "s1": "c1", "s2": "c2"}
    assert 0 <= stats["best_metric"] <= 1
    version = weights_hash(load_network(trainer.versions.published))
    assert version != told["parent"]
    assert [record["hash"] for record in trainer.versions.all()] == [version]
    record = read_record(trainer.models)
    assert (record["state"], record["version"], len(record["curve"])) == ("published", version, 6)
    assert record["reason"] == told["reason"]
    assert list(trainer.models.glob("train_01/events_*/*"))  # TensorBoard
    assert not (trainer.models / "train_01" / CHECKPOINT).exists()


def test_training_that_does_not_help_keeps_a_candidate_and_says_why(make):
    trainer = make(2)
    run(trainer, learning_rate=0.0)
    assert not trainer.versions.published.exists()
    [candidate] = trainer.versions.all()
    assert candidate["state"] == "candidate"
    assert "not better" in candidate["reason"]
    assert "promptseg" not in candidate  # which segmented nothing of this list before
    record = read_record(trainer.models)
    assert record["state"] == "candidate"
    assert record["epoch"] == 4  # the last phase is not begun in vain
    assert trainer.stats()["total_time"]


def test_labels_that_are_taken_away_or_replaced_while_a_training_learns_do_not_end_it(make, tmp_path, monkeypatch):
    trainer = make(4)
    (tmp_path / "l3.nii.gz").unlink()  # after the list was asked

    make_course = trainer._made

    def in_the_middle(*arguments):
        (tmp_path / "l1.nii.gz").unlink()
        (tmp_path / "l2.nii.gz").replace(tmp_path / "l0.nii.gz")
        return make_course(*arguments)

    monkeypatch.setattr(trainer, "_made", in_the_middle)
    run(trainer)
    record = read_record(trainer.models)
    assert record["state"] in ("published", "candidate")
    assert record["studies"] == {"s0": "c0", "s1": "c1", "s2": "c2"}
    assert not (trainer.models / LABELS).exists()


@pytest.mark.parametrize("mode", ["norms", "lora"])
def test_one_study_is_examined_on_copies_and_says_so(make, mode):
    trainer = make(1)
    run(trainer, mode=mode)
    [version] = trainer.versions.all()
    assert version["examined_on"] == "changed copies of the one study"
    assert version["mode"] == mode


def test_clients_read_progress_from_the_statistics(make):
    trainer = make(2)
    run(trainer)
    stats = trainer.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert stats["total_epochs"] == 6
    assert 0 <= stats["best_metric"] <= 1
    assert stats["total_time"]
    assert trainer.info()["config"]["tracking"][0] == "None"
    assert "tracking_uri" not in trainer.info()["config"]


def test_torn_statistics_are_told_as_none_until_a_training_writes_them_anew(make):
    trainer = make(1)
    (trainer.models / "train_stats.json").write_text('{"total_epochs": 6, "best_m')
    assert trainer.stats() == {}
    run(trainer)
    assert trainer.stats()["total_epochs"] == 2


def test_a_killed_training_goes_on_after_its_last_epoch_and_ends_the_same(make, monkeypatch):
    begun, step, begin = [], FineTune.step, FineTune.begin_epoch

    def noted(self):
        begun.append(self.epoch)
        begin(self)

    monkeypatch.setattr(FineTune, "begin_epoch", noted)

    def killed(self, *rest):
        if len(begun) == 4:
            raise KeyboardInterrupt  # not an Exception: nothing may tidy up
        return step(self, *rest)

    trainer = make(2)
    monkeypatch.setattr(FineTune, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(trainer)
    assert (trainer.models / "train_01" / CHECKPOINT).exists()
    monkeypatch.setattr(FineTune, "step", step)
    run(make(2))
    assert begun == [0, 1, 2, 3, 3, 4, 5]
    resumed = read_record(trainer.models)
    run(make(2))
    assert begun[7:] == [0, 1, 2, 3, 4, 5]  # nothing is left to go on with
    whole = read_record(trainer.models)
    assert whole["curve"] == resumed["curve"]
    assert whole["version"] == resumed["version"]


def test_a_training_whose_weights_could_not_be_kept_repeats_its_last_epoch_and_ends_the_same(make, monkeypatch):
    def full(*rest):
        raise OSError(errno.ENOSPC, "No space left on device", "versions")

    with monkeypatch.context() as patch:
        patch.setattr(Versions, "add", full)
        with pytest.raises(OSError, match="No space"):
            run(make(2))
    run(make(2))
    resumed = read_record(make(2).models)
    run(make(2))  # from the beginning
    whole = read_record(make(2).models)
    assert (resumed["version"], resumed["curve"]) == (whole["version"], whole["curve"])


def test_clients_cannot_have_a_training_end_early(make):
    trainer = make(2)
    run(trainer, learning_rate=0.0, early_stop_patience=1)
    assert read_record(trainer.models)["epoch"] == 4  # all of the cross-validation, though nothing became better


def test_a_training_that_ends_before_its_last_epoch_publishes_nothing(make, monkeypatch):
    finalize = OnePromptTrainer.finalize

    def ends_early(self, context):
        finalize(self, context)
        context.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=5), context.trainer.terminate)

    monkeypatch.setattr(OnePromptTrainer, "finalize", ends_early)
    trainer = make(3)  # as the one that is published where it runs to its end
    run(trainer)
    assert not trainer.versions.published.exists()
    [candidate] = trainer.versions.all()
    assert candidate["state"] == "candidate"
    assert "ended after 5 of 6 epochs" in candidate["reason"]


def test_memory_that_runs_out_halves_the_batch_once(make, monkeypatch):
    batches, step = [], FineTune.step

    def hungry(self, module, episodes):
        batches.append(len(episodes))
        if len(episodes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, module, episodes)

    monkeypatch.setattr(FineTune, "step", hungry)
    run(make(1))
    assert batches[:3] == [2, 1, 1]


def test_memory_that_runs_out_again_is_told_with_what_to_do(make, monkeypatch):
    def hungry(self, module, episodes):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FineTune, "step", hungry)
    trainer = make(1)
    with pytest.raises(MemoryError, match="device=cpu"):
        run(trainer)
    record = read_record(trainer.models)
    assert record["state"] == "failed"
    assert "more memory" in record["reason"]


def test_a_full_disk_ends_training_with_a_clear_state_and_serves_on(make, monkeypatch):
    trainer = make(1)
    trainer.versions.published.write_bytes(b"what is served")

    def full(*rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(trainer.models))

    monkeypatch.setattr(trainers.course, "save_progress", full)
    with pytest.raises(OSError, match="No space"):
        run(trainer)
    record = read_record(trainer.models)
    assert record["state"] == "failed"
    assert "the disk is full" in record["reason"]
    assert trainer.versions.published.read_bytes() == b"what is served"


def test_weights_published_meanwhile_are_not_overwritten(make, monkeypatch):
    trainer = make(3)
    step = FineTune.step

    def other(self, *rest):
        if not trainer.versions.published.exists():
            trainer.versions.publish(trainer.versions.add(self.network, {"state": "uploaded"}))
        return step(self, *rest)

    monkeypatch.setattr(FineTune, "step", other)
    run(trainer)
    assert read_provenance(trainer.versions.published)["state"] == "uploaded"
    assert "published meanwhile" in read_record(trainer.models)["reason"]


def test_two_processes_learn_together(make, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29731")
    trainer = make(4, promptseg=True)
    run(trainer, multi_gpu=True, gpus="0,1", max_epochs=1, steps_per_epoch=2)  # gloo, where there is no GPU
    record = read_record(trainer.models)
    assert record["state"] in ("published", "candidate"), record
    [version] = trainer.versions.all()
    assert version["before"]["questions"] == 4
    assert version["promptseg"]["dice"] > 0
    assert [point["epoch"] for point in record["curve"]] in ([1, 2], [1, 2, 3])


def test_without_a_label_there_is_nothing_to_learn(make):
    with pytest.raises(ValueError, match="save one first"):
        run(make(0))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own database
def test_experiments_are_tracked_in_a_store_that_mlflow_takes(make):
    trainer = make(1)
    run(trainer, max_epochs=1, tracking="mlflow")
    assert (trainer.models.parent / "mlflow.db").exists()
