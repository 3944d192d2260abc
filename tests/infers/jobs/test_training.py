"""When a training starts, and what is told of it; MONAI Label's processes are played by a list."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import requests
from monailabel.utils.async_tasks import utils as processes

import infers.jobs.training
from infers.errors import Busy, ClientError, NotFound
from infers.jobs.training import Trainings
from infers.study_list.studies import LIST_UNET
from lib.finetuning.training_record import RUNNING, read_record, write_record
from tests.infers.fakes import FakePredictor, make_studies, wait_until
from tests.samples import organ_volume, write_nifti

GONE = 2**22 + 1  # no process has this number


class Bench:
    """A study list of five, and the trainings that were asked for."""

    def __init__(self, folder):
        (folder / "studies").mkdir()
        (folder / "models").mkdir()
        for number in range(5):
            write_nifti(folder / "studies" / f"s{number}.nii.gz", organ_volume(number)[0])
        self.label = write_nifti(folder / "label.nii.gz", organ_volume(0)[1])
        self.models, self.specialist, self.asked = folder / "models", folder / "models" / "specialist", []
        self.specialist.mkdir()
        self.models_asked = []
        self.studies = make_studies(str(folder / "studies"), FakePredictor())

    def trainings(self, **options):
        def run(model, params, enqueue):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            request = {**params, "model": model}
            task = {"id": str(len(self.asked)), "status": "SUBMITTED", "request": request, "start_ts": now}
            self.asked.append({key: value for key, value in params.items() if key != "run"})
            self.models_asked.append(model)
            processes.background_tasks.setdefault("train", []).append(task)
            return task

        return Trainings({"oneprompt": self.models, LIST_UNET: self.specialist}, self.studies, run=run, **options)

    def submit(self, *ids):
        for image_id in ids:
            self.studies.store.save_label(image_id, str(self.label), "final", {})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "background_tasks", {})
    monkeypatch.setattr(processes, "background_processes", {})
    monkeypatch.setattr(processes, "background_executors", {})
    return Bench(tmp_path)


def test_training_starts_by_itself_after_so_many_new_labels(bench):
    trainings = bench.trainings(every=2)
    bench.submit("s0")
    assert not trainings.label_saved()
    bench.submit("s1")
    assert trainings.label_saved()
    assert len(bench.asked) == 1
    assert not trainings.label_saved()  # it waits already


def test_labels_that_were_learnt_from_do_not_count_again_until_they_change(bench):
    trainings = bench.trainings(every=2)
    bench.submit("s0", "s1", "s2")
    learnt = bench.studies.templates()
    write_record(bench.models, state="published", studies={id: learnt[id] for id in ("s0", "s1")})
    assert not trainings.label_saved()
    write_record(bench.models, state="published", studies={**learnt, "s0": "as it was", "s1": "as it was"})
    assert trainings.label_saved()


def test_it_never_starts_by_itself_unless_asked_to(bench):
    bench.submit("s0", "s1", "s2")
    assert not bench.trainings().label_saved()


def test_without_a_label_or_without_room_training_is_refused(bench):
    with pytest.raises(ClientError, match="save one study first"):
        bench.trainings().start({})
    bench.submit("s0")
    with pytest.raises(Busy, match="free some") as full:
        bench.trainings(room=2**62).start({})
    assert full.value.status == 507
    assert bench.asked == []


def test_a_second_training_is_refused_unless_it_may_wait(bench):
    bench.submit("s0")
    trainings = bench.trainings()
    trainings.start({})
    with pytest.raises(ClientError, match="already running") as refused:
        trainings.start({})
    assert refused.value.status == 429
    trainings.start({}, enqueue=True)
    assert trainings.status()["queued"] == 2


def test_a_specialist_is_trained_after_one_prompt_where_there_are_enough_labels(bench):
    trainings = bench.trainings(beside=2)
    bench.submit("s0")
    trainings.start({"max_epochs": 3})
    assert bench.models_asked == ["oneprompt"]
    bench.submit("s1")
    trainings.start({"max_epochs": 3, "device": "cpu"}, enqueue=True)
    assert bench.models_asked == ["oneprompt", "oneprompt", LIST_UNET]
    assert bench.asked[-1] == {"device": "cpu"}  # where the user wants it, and not for how long
    assert trainings.status()["queued"] == 2
    assert trainings.status(LIST_UNET)["queued"] == 1
    assert trainings.status(LIST_UNET)["state"] == "idle"


def test_the_path_alone_says_which_trainer_is_asked(bench):
    bench.submit("s0")
    bench.trainings().start({"model": LIST_UNET})
    bench.trainings().start({"model": "oneprompt"}, name=LIST_UNET, enqueue=True)
    assert (bench.models_asked, bench.asked) == (["oneprompt", LIST_UNET], [{}, {}])


def test_each_trainer_has_its_own_record(bench):
    write_record(bench.models, state="published", epoch=3)
    write_record(bench.specialist, state=RUNNING, pid=GONE, params={"max_epochs": 2})
    trainings = bench.trainings()
    assert trainings.status()["state"] == "published"
    assert trainings.status(LIST_UNET)["state"] == "failed"
    bench.submit("s0", "s1")
    assert trainings.resume()
    assert (bench.models_asked, bench.asked) == ([LIST_UNET], [{"max_epochs": 2}])
    with pytest.raises(NotFound, match="oneprompt, oneprompt_specialist"):
        trainings.start({}, name="other")


def test_stopping_drops_what_waits(bench):
    bench.submit("s0")
    trainings = bench.trainings()
    assert trainings.stop() is None
    trainings.start({})
    assert trainings.stop()["status"] == "STOPPED"
    assert trainings.status()["queued"] == 0


@pytest.fixture
def orphan(bench):
    """The process of a training that outlived its server."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "train"]) as process:
        wait_until(lambda: "train" in psutil.Process(process.pid).cmdline())
        write_record(bench.models, state=RUNNING, pid=process.pid)
        yield process
        process.kill()


def test_while_a_training_of_a_killed_server_lives_none_starts_and_none_waits(bench, orphan):
    bench.submit("s0")
    trainings = bench.trainings(every=1)
    for enqueue in (False, True):
        with pytest.raises(ClientError, match="earlier run") as refused:
            trainings.start({}, enqueue=enqueue)
        assert refused.value.status == 429
    assert not trainings.label_saved()
    assert trainings.stop()["status"] == "STOPPED"
    assert orphan.wait(120) != 0
    assert read_record(bench.models)["state"] == "stopped"
    trainings.start({}, enqueue=True)


def test_a_training_that_ends_while_it_is_being_stopped_is_no_error(bench, orphan, monkeypatch):
    def gone(*process):
        raise psutil.NoSuchProcess(orphan.pid)

    monkeypatch.setattr(psutil.Process, "kill", gone)
    monkeypatch.setattr(infers.jobs.training.train, "stop", gone)
    assert bench.trainings().stop()["status"] == "STOPPED"
    assert read_record(bench.models)["state"] == "stopped"


def test_a_training_whose_process_is_gone_has_failed_and_says_what_to_do(bench):
    write_record(bench.models, state=RUNNING, pid=GONE, epoch=3)
    told = bench.trainings().status()
    assert told["state"] == "failed"
    assert "was killed" in told["reason"]
    write_record(bench.models, state=RUNNING, pid=os.getpid())  # the number was given to another program
    assert bench.trainings().status()["state"] == "failed"


def test_a_training_that_a_full_disk_ended_without_a_word_says_so(bench, monkeypatch):
    write_record(bench.models, state=RUNNING, pid=GONE, epoch=3)
    monkeypatch.setattr(infers.jobs.training.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    told = bench.trainings().status()
    assert told["state"] == "failed"
    assert f"{bench.models} has 3 MB free" in told["reason"]
    assert "make room" in told["reason"]


def test_a_clock_that_is_set_back_takes_no_training_for_another(bench):
    bench.submit("s0")
    trainings = bench.trainings()
    trainings.start({})
    [task] = processes.background_tasks["train"]
    task |= {"status": "DONE", "end_ts": minutes_ago(0)}
    yesterday = time.time() - 86_400
    write_record(bench.models, state="published", run=task["request"]["run"], started=yesterday, reason="better")
    assert (trainings.status()["state"], trainings.status()["reason"]) == ("published", "better")
    task["status"] = "ERROR"
    write_record(bench.models, state="published", run="of another", started=time.time() + 86_400)
    assert trainings.status()["state"] == "failed"


def test_when_the_server_ends_a_training_ends_too_and_the_next_server_lets_it_go_on(bench):
    bench.submit("s0")
    trainings = bench.trainings()
    trainings.start({"max_epochs": 7})
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "train"]) as process:
        processes.background_processes["train"] = {"0": process}
        write_record(bench.models, state=RUNNING, pid=process.pid, params={"max_epochs": 7})
        trainings.end()
        assert process.wait(60) != 0
    processes.background_tasks["train"].clear()
    processes.background_processes["train"].clear()
    assert bench.trainings().resume()
    assert bench.asked == [{"max_epochs": 7}] * 2


def minutes_ago(minutes):
    """As MONAI Label notes the time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 60 * minutes))


def test_a_training_whose_process_never_began_has_failed_with_its_last_words(bench):
    bench.submit("s0")
    write_record(bench.models, state="published", started=time.time() - 600)
    trainings = bench.trainings()
    trainings.start({})
    assert trainings.status()["state"] == "published"  # the one before: this one waits
    [task] = processes.background_tasks["train"]
    task |= {"status": "ERROR", "end_ts": minutes_ago(0), "details": ["Traceback", "FileNotFoundError: no weights"]}
    told = trainings.status()
    assert told["state"] == "failed"
    assert "FileNotFoundError: no weights" in told["reason"]
    write_record(bench.models, state="failed", reason="it said why itself", started=time.time())
    assert trainings.status()["reason"] == "it said why itself"


@pytest.mark.parametrize(("ended", "state"), [("ERROR", "failed"), ("STOPPED", "stopped")])
def test_a_training_that_waited_for_another_is_not_taken_for_it(bench, ended, state):
    bench.submit("s0")
    trainings = bench.trainings()
    for _ in range(3):
        trainings.start({}, enqueue=True)
    first, second, third = processes.background_tasks["train"]
    first |= {"status": "DONE", "start_ts": minutes_ago(9), "end_ts": minutes_ago(5)}
    second |= {"status": ended, "start_ts": minutes_ago(8), "end_ts": minutes_ago(4)}
    third["status"] = "STOPPED"  # it was dropped while it waited: nothing is known of it
    write_record(bench.models, state="published", started=time.time() - 9 * 60 + 5)  # the first one's
    assert trainings.status()["state"] == state
    write_record(bench.models, state="candidate", started=time.time() - 5 * 60 + 5)  # the second one's
    assert trainings.status()["state"] == "candidate"


def test_a_training_runs_until_its_process_has_ended_and_shows_its_own_progress_only(bench):
    bench.submit("s0")
    trainings = bench.trainings()
    trainings.start({})
    [task] = processes.background_tasks["train"]
    task |= {"status": "RUNNING", "start_ts": minutes_ago(1)}
    write_record(bench.models, state="published", started=time.time() - 600, reason="better", epoch=9, curve=[{}])
    told = trainings.status()
    assert (told["state"], told["epoch"], told["curve"]) == ("running", 0, [])
    write_record(bench.models, state="published", started=time.time(), reason="better", epoch=3, curve=[{}])
    told = trainings.status()
    assert (told["state"], told["reason"], told["epoch"], told["curve"]) == ("running", "", 3, [{}])
    task |= {"status": "DONE", "end_ts": minutes_ago(0)}
    assert (trainings.status()["state"], trainings.status()["reason"]) == ("published", "better")


def test_a_label_is_saved_whatever_keeps_a_training_from_starting(bench, monkeypatch):
    def away(path):
        raise OSError("the disk is away")

    bench.submit("s0")
    monkeypatch.setattr(infers.jobs.training.shutil, "disk_usage", away)
    assert not bench.trainings(every=1).label_saved()


def test_a_training_that_a_power_cut_ended_goes_on_at_the_next_start(bench):
    bench.submit("s0")
    assert not bench.trainings().resume()
    write_record(bench.models, state=RUNNING, pid=GONE, params={"max_epochs": 7, "model": "oneprompt"})
    assert bench.trainings().resume()
    assert bench.asked == [{"max_epochs": 7}]
    assert bench.trainings().status()["state"] == "failed"  # until the new process says otherwise
    write_record(bench.models, state="published")
    assert not bench.trainings().resume()


@pytest.mark.parametrize("error", [requests.ConnectionError("the server is away"), ValueError("torn"), OSError("full")])
def test_a_training_that_cannot_go_on_keeps_no_server_from_starting_and_goes_on_at_a_later_start(
    bench, monkeypatch, error
):
    def away():
        raise error

    bench.submit("s0")
    write_record(bench.models, state=RUNNING, pid=GONE, params={"max_epochs": 7})
    with monkeypatch.context() as patch:
        patch.setattr(bench.studies, "templates", away)
        assert not bench.trainings().resume()
    assert "was killed" in bench.trainings().status()["reason"]
    assert bench.trainings().resume()
    assert bench.asked == [{"max_epochs": 7}]


def test_a_torn_record_is_no_training(bench):
    (bench.models / "training.json").write_text("{ torn")
    assert bench.trainings().status()["state"] == "idle"
